// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// withoutProtobuf offers JSON and YAML only. Our types have no protobuf encoding, as
// custom resources have none. So a client that prefers protobuf gets its second
// choice, and not an error.
type withoutProtobuf struct{ serializer.CodecFactory }

var _ runtime.NegotiatedSerializer = withoutProtobuf{}

func (s withoutProtobuf) SupportedMediaTypes() []runtime.SerializerInfo {
	return slices.DeleteFunc(slices.Clone(s.CodecFactory.SupportedMediaTypes()), func(info runtime.SerializerInfo) bool {
		return info.MediaType == runtime.ContentTypeProtobuf
	})
}
