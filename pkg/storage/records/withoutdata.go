// SPDX-License-Identifier: Apache-2.0

package records

import "context"

type withoutDataKey struct{}

// WithoutData marks the context of a request whose answer shows nothing of the data
// of records, so that gets, lists and watches do not read it. It is for resources
// whose layout can join a record without data.
//
// It has to be a context value. Two places know that an answer shows no data: the
// handler of pkg/apiserver that sees the Accept header, and the registry that asks
// the authorizer. Between them and the Store lie the handlers of the generic server,
// genericregistry.Store and storage.Interface, whose arguments Kubernetes fixes. The
// Store reads the mark where a call enters it, and passes it on as an argument.
func WithoutData(ctx context.Context) context.Context {
	return context.WithValue(ctx, withoutDataKey{}, true)
}

// IsWithoutData reports whether WithoutData has marked the context.
func IsWithoutData(ctx context.Context) bool {
	marked, _ := ctx.Value(withoutDataKey{}).(bool)
	return marked
}
