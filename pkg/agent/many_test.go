// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/test/framework/softhsm"
)

// TestNamesThatResembleEachOther: a change of one record is of no other, however
// alike their names are. Keys and addresses are bytes, not patterns.
func TestNamesThatResembleEachOther(t *testing.T) {
	t.Parallel()
	o, files := realOptions(t, softhsm.New(t))
	h := startReal(t, o, files)
	names := []string{
		"ns/app", "ns/app2", "ns/app.v1", "ns/app.v1.2", "ns/app-", "ns/ap", "ns/appendix", "ns2/app", "ns/app/key", "ns/app/_metadata",
		"ns/App", "ns/äpp", "ns/a\u0308pp", "ns/秘密", "ns/секрет", "ns/🔑", "ns/app ", " ns/app", "ns/app%00", "ns/*", "ns/[a]", "ns/..", "ns//app",
	}
	revisions := map[string]uint64{}
	for _, name := range names {
		revisions[name] = h.commit(put(name, 0, "of "+name)).GetRevision()
	}
	check := func() {
		t.Helper()
		for _, name := range names {
			got := h.get(name)
			if revisions[name] == 0 && got == nil {
				continue
			}
			if got.GetRevision() != revisions[name] || got.GetKey() != name || got.GetAddress() != "at "+name || string(got.GetData()) != "of "+name {
				t.Errorf("record %q is %v", name, got)
			}
		}
	}
	check()
	for _, changed := range []string{"ns/app", "ns/秘密", "ns/app.v1"} {
		revisions[changed] = h.commit(put(changed, revisions[changed], "of "+changed)).GetRevision()
		check()
		h.commit(remove(changed, revisions[changed]))
		revisions[changed] = 0
		check()
	}
	for prefix, want := range map[string]int{"ns/app": 10 - 2, "ns/": len(names) - 2 - 3, "ns2/": 1, "ns/a\u0308": 1, "ns/app.": 1, "*": 0} {
		records, _, err := h.list(&agentv1.ListRequest{Prefix: prefix})
		if err != nil || len(records) != want {
			t.Errorf("prefix %q gives %d records, want %d (%v)", prefix, len(records), want, err)
		}
	}
	h.stop()
	h = startReal(t, o, files)
	check()
}

// TestTenThousandRecords: a get costs the same among ten records and among ten
// thousand, before and after a restart.
func TestTenThousandRecords(t *testing.T) {
	t.Parallel()
	const few, many, writers = 10, 10_000, 128
	o, files := realOptions(t, softhsm.New(t))
	h := startReal(t, o, files).patient(5 * time.Minute)
	name := func(i int) string { return fmt.Sprintf("ns-%d/secret-%d", i%100, i) }
	value := func(i int) string { return fmt.Sprintf("value of %d", i) }
	fill := func(from, to int) {
		var group sync.WaitGroup
		for w := range writers {
			group.Go(func() {
				for i := from + w; i < to; i += writers {
					h.commit(put(name(i), 0, value(i)))
				}
			})
		}
		group.Wait()
	}
	costOfGets := func(of ...int) {
		t.Helper()
		for _, i := range of {
			cost := h.cost(func() {
				if got := h.get(name(i)); string(got.GetData()) != value(i) {
					t.Errorf("record %d is %v", i, got)
				}
			})
			if cost != (pkcs11.Calls{ValueReads: 1}) {
				t.Errorf("a get of record %d cost %+v", i, cost)
			}
		}
	}
	fill(0, few)
	costOfGets(0, few-1)
	creates := h.cost(func() { fill(few, many) }).Creates
	costOfGets(0, few-1, few, many/2, many-1)
	absent := h.cost(func() {
		if got := h.get("ns-0/secret-"); got != nil {
			t.Errorf("record is %v", got)
		}
	})
	if absent != (pkcs11.Calls{}) || creates >= many/2 {
		t.Errorf("a get of nothing cost %+v; %d writes cost %d creates", absent, many, creates)
	}
	h.stop()

	h = startReal(t, o, files)
	if start := h.Calls(); start.ValueReads > creates+few+1 {
		t.Errorf("a start with %d commits cost %+v", creates+few, start)
	}
	costOfGets(0, many/2, many-1)
	records, _, err := h.list(&agentv1.ListRequest{Prefix: "ns-7/", WithoutData: true})
	if err != nil || len(records) != many/100 || !slices.IsSortedFunc(records, func(a, b *agentv1.Record) int {
		return slices.Compare([]byte(a.GetKey()), []byte(b.GetKey()))
	}) {
		t.Errorf("the list has %d records, want %d, in order: %v", len(records), many/100, err)
	}
	if got := h.status().GetRecords(); got != many {
		t.Errorf("%d records, want %d", got, many)
	}
	fmt.Printf("figure: records-on-softhsm %d\n", many)
}
