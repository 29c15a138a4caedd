// SPDX-License-Identifier: Apache-2.0

package records

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// ErrCorrupt is wrapped by errors that say that a record is not what the
// layout once made of an object.
var ErrCorrupt = errors.New("the stored record is corrupt")

// Parts is what a record is made of. Each part lies elsewhere: see Record in
// pkg/agent/api/v1/agent.proto.
type Parts struct {
	Address            string
	Meta, Data, Status []byte
}

// Source says how a record was read.
type Source struct {
	Serial string // Of the token; empty when there is none.
	// WithoutData is set if data was not requested. Otherwise a record without data has
	// none.
	WithoutData bool
}

// Layout decides which part of an object lies where in its record.
type Layout interface {
	// Split takes an object without a resourceVersion apart. Equal objects give
	// equal bytes: what has not changed is not written.
	Split(obj runtime.Object) (Parts, error)
	// Join puts an object together from its record; the store sets the
	// resourceVersion. The error wraps ErrCorrupt when the record cannot be
	// understood.
	Join(record *agentv1.Record, from Source, into runtime.Object) error
	// AddressField names the field that is the address of an object; nil if objects
	// have no address.
	AddressField() *field.Path
}

// Whole is the layout that keeps the whole object, encoded, as data.
type Whole struct {
	Codec runtime.Codec
}

// Split implements Layout.
func (w Whole) Split(obj runtime.Object) (Parts, error) {
	data, err := runtime.Encode(w.Codec, obj)
	return Parts{Data: data}, err
}

// Join implements Layout.
func (w Whole) Join(record *agentv1.Record, _ Source, into runtime.Object) error {
	if err := runtime.DecodeInto(w.Codec, record.GetData(), into); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return nil
}

// AddressField implements Layout.
func (w Whole) AddressField() *field.Path { return nil }
