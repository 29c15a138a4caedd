// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"reflect"
	"testing"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// No value lies in the agent's index or history in the clear.
func TestMemoryHoldsNoValue(t *testing.T) {
	t.Parallel()
	h := start(t)
	const canary, openly = "canary-5f1c", "openly-5f1c"
	in := put("a", 0, canary)
	in.GetPut().Meta = []byte(openly)
	revision := h.commit(in).GetRevision()
	revision = h.commit(setStatus("a", revision, openly)).GetRevision()
	in.ExpectedRevision = revision
	revision = h.commit(in).GetRevision()
	h.events(h.watch(&agentv1.WatchRequest{Revision: 1}), revision)
	if got := h.get("a"); string(got.GetData()) != canary {
		t.Fatalf("record is %v", got)
	}
	h.commit(remove("a", revision))
	h.commit(put("b", 0, canary))
	h.stop() // Memory is looked at without locks.

	dump := dump(h.versions)
	if !bytes.Contains(dump, []byte(openly)) {
		t.Fatal("the dump does not show what lies in memory")
	}
	if bytes.Contains(dump, []byte(canary)) {
		t.Error("the agent's memory holds a value in the clear")
	}
}

// dump gives all strings and bytes that can be reached from a value, exported or not.
func dump(root any) []byte {
	var out []byte
	seen := map[reflect.Value]bool{}
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			out = append(append(out, v.String()...), '\n')
		case reflect.Pointer, reflect.Interface:
			if v.IsNil() || seen[v] {
				return
			}
			seen[v] = true
			walk(v.Elem())
		case reflect.Struct:
			for i := range v.NumField() {
				walk(v.Field(i))
			}
		case reflect.Slice, reflect.Array:
			if v.Type().Elem().Kind() == reflect.Uint8 {
				for i := range v.Len() {
					out = append(out, byte(v.Index(i).Uint()))
				}
				out = append(out, '\n')
				return
			}
			for i := range v.Len() {
				walk(v.Index(i))
			}
		case reflect.Map:
			for iter := v.MapRange(); iter.Next(); {
				walk(iter.Key())
				walk(iter.Value())
			}
		}
	}
	walk(reflect.ValueOf(root))
	return out
}
