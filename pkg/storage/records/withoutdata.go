// SPDX-License-Identifier: Apache-2.0

package records

import "context"

type withoutDataKey struct{}

// WithoutData marks the context of a request whose answer shows nothing that
// lies in the data of records. Gets, lists and watches then leave it where it
// is. It is for resources whose layout can join a record without it.
func WithoutData(ctx context.Context) context.Context {
	return context.WithValue(ctx, withoutDataKey{}, true)
}

// IsWithoutData tells whether WithoutData has marked the context.
func IsWithoutData(ctx context.Context) bool {
	marked, _ := ctx.Value(withoutDataKey{}).(bool)
	return marked
}
