// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"math"
	"testing"

	"github.com/anishathalye/porcupine"
)

// verb is what a client asked for.
type verb string

const (
	verbCreate verb = "create"
	verbRead   verb = "read" // A get, or one object of a list.
	verbUpdate verb = "update"
	verbDelete verb = "delete"
)

// outcome is what a client was told. A change that was surely not made is in no
// history.
type outcome string

const (
	done     outcome = "done"
	absent   outcome = "absent"   // 404
	conflict outcome = "conflict" // 409: it is there, but not as was expected.
	unknown  outcome = "unknown"  // It may have been made, or may be until the end.
)

// input is one request about one object.
type input struct {
	verb     verb
	name     string
	value    string // That is written. Each is written once.
	expected uint64 // The version that is to be changed; 0 is any.
}

// output is the answer to it.
type output struct {
	outcome outcome
	value   string
	version uint64
}

// object is one HSMSecret as the model knows it: one register with versions that
// grow, also when it is deleted and made again.
type object struct {
	exists bool
	value  string
	// version is 0 after a change of unknown outcome, until somebody reads it.
	version uint64
	// floor is the last version that was known.
	floor uint64
}

func (o object) is(version uint64) bool {
	return o.exists && (o.version == version || o.version == 0 && version > o.floor)
}

func (o object) expected(version uint64) bool { return version == 0 && o.exists || o.is(version) }

func (o object) written(value string, version uint64) object {
	return object{exists: true, value: value, version: version, floor: max(o.floor, o.version, version)}
}

func (o object) deleted() object { return object{floor: max(o.floor, o.version)} }

func (o object) grows(version uint64) bool { return version > max(o.floor, o.version) }

// step reports whether an object can answer so, and returns what it is afterwards.
func (o object) step(in input, out output) (bool, object) {
	switch in.verb {
	case verbRead:
		if out.outcome == absent {
			return !o.exists, o
		}
		return o.is(out.version) && o.value == out.value, o.written(o.value, out.version)
	case verbCreate:
		switch out.outcome {
		case done:
			return !o.exists && o.grows(out.version), o.written(in.value, out.version)
		case conflict:
			return o.exists, o
		case unknown:
			if !o.exists {
				return true, o.written(in.value, 0)
			}
			return true, o
		}
	case verbUpdate:
		switch out.outcome {
		case done:
			return o.expected(in.expected) && out.version > in.expected && o.grows(out.version), o.written(in.value, out.version)
		case absent:
			return !o.exists, o
		case conflict:
			return o.exists && (o.version != in.expected || o.version == 0), o
		case unknown:
			if o.expected(in.expected) {
				return true, o.written(in.value, 0)
			}
			return true, o
		}
	case verbDelete:
		switch out.outcome {
		case done:
			return o.expected(in.expected), o.deleted()
		case absent:
			return !o.exists, o
		case conflict:
			return o.exists && (o.version != in.expected || o.version == 0), o
		case unknown:
			if o.expected(in.expected) {
				return true, o.deleted()
			}
			return true, o
		}
	}
	return false, o
}

// model is what HSMSecrets promise: each behaves as if requests came one after
// the other.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byName := map[string][]porcupine.Operation{}
		for _, op := range history {
			name := op.Input.(input).name
			byName[name] = append(byName[name], op)
		}
		var parts [][]porcupine.Operation
		for _, part := range byName {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return object{} },
	Step: func(state, in, out any) (bool, any) { return state.(object).step(in.(input), out.(output)) },
	DescribeOperation: func(in, out any) string {
		return fmt.Sprintf("%+v: %+v", in, out)
	},
}

// op is an operation of one client, from one time to another.
func op(client int, begun, end int64, in input, out output) porcupine.Operation {
	in.name = "a"
	return porcupine.Operation{ClientId: client, Input: in, Call: begun, Output: out, Return: end}
}

// TestModel gives the model histories with every kind of untrue answer, and true
// ones that are as near to them as can be.
func TestModel(t *testing.T) {
	t.Parallel()
	create := op(0, 0, 10, input{verb: verbCreate, value: "one"}, output{outcome: done, version: 10})
	update := op(0, 20, 30, input{verb: verbUpdate, value: "two", expected: 10}, output{outcome: done, version: 20})
	read := func(begun, end int64, value string, version uint64) porcupine.Operation {
		return op(1, begun, end, input{verb: verbRead}, output{outcome: done, value: value, version: version})
	}
	none := func(begun, end int64) porcupine.Operation {
		return op(1, begun, end, input{verb: verbRead}, output{outcome: absent})
	}
	remove := func(begun, end int64) porcupine.Operation {
		return op(2, begun, end, input{verb: verbDelete}, output{outcome: done})
	}
	unsure := op(2, 40, math.MaxInt64, input{verb: verbUpdate, value: "three", expected: 20}, output{outcome: unknown})
	for _, c := range []struct {
		name    string
		history []porcupine.Operation
		true    bool
	}{
		{"read after write", []porcupine.Operation{create, update, read(40, 50, "two", 20)}, true},
		{"stale read", []porcupine.Operation{create, update, read(40, 50, "one", 10)}, false},
		{"read during a write, before it", []porcupine.Operation{create, update, read(25, 50, "one", 10)}, true},
		{"read during a write, after it", []porcupine.Operation{create, update, read(15, 25, "two", 20)}, true},
		{"read before a write began", []porcupine.Operation{create, update, read(11, 15, "two", 20)}, false},
		{"reads that go back", []porcupine.Operation{create, update, read(21, 22, "two", 20), read(23, 24, "one", 10)}, false},
		{"value of another version", []porcupine.Operation{create, update, read(40, 50, "two", 10)}, false},
		{"false 404", []porcupine.Operation{create, none(20, 30)}, false},
		{"404 before it was made", []porcupine.Operation{create, none(5, 30)}, true},
		{"lost update", []porcupine.Operation{
			create, update,
			op(2, 20, 30, input{verb: verbUpdate, value: "other", expected: 10}, output{outcome: done, version: 21}),
		}, false},
		{"version that does not grow", []porcupine.Operation{
			create, remove(20, 30), op(0, 40, 50, input{verb: verbCreate, value: "new"}, output{outcome: done, version: 10}),
		}, false},
		{"made twice", []porcupine.Operation{create, op(1, 20, 30, input{verb: verbCreate, value: "new"}, output{outcome: done, version: 20})}, false},
		{"read after delete", []porcupine.Operation{create, remove(20, 30), read(40, 50, "one", 10)}, false},
		{"gone after delete", []porcupine.Operation{create, remove(20, 30), none(40, 50)}, true},
		{"unknown, and made", []porcupine.Operation{create, update, unsure, read(50, 60, "three", 30)}, true},
		{"unknown, and not made", []porcupine.Operation{create, update, unsure, read(50, 60, "two", 20)}, true},
		{"unknown, made and taken back", []porcupine.Operation{create, update, unsure, read(50, 60, "three", 30), read(70, 80, "two", 20)}, false},
		{"conflict without a change", []porcupine.Operation{
			create, op(1, 20, 30, input{verb: verbUpdate, value: "x", expected: 10}, output{outcome: conflict}),
		}, false},
	} {
		if got := porcupine.CheckOperations(model, c.history); got != c.true {
			t.Errorf("%s: the model says %t", c.name, got)
		}
	}
}
