// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// withoutProtobuf offers JSON and YAML. Our types have no protobuf form, as
// custom resources have none: a client that prefers protobuf then takes its
// second choice, where it would otherwise be promised what cannot be encoded.
type withoutProtobuf struct{ serializer.CodecFactory }

var _ runtime.NegotiatedSerializer = withoutProtobuf{}

func (s withoutProtobuf) SupportedMediaTypes() []runtime.SerializerInfo {
	return slices.DeleteFunc(slices.Clone(s.CodecFactory.SupportedMediaTypes()), func(info runtime.SerializerInfo) bool {
		return info.MediaType == runtime.ContentTypeProtobuf
	})
}
