// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/test/framework/faulttoken"
)

// A status tells how full the token is, by the rule that refuses a record: the
// last free object can be had, and no more.
func TestStatusTellsCapacity(t *testing.T) {
	t.Parallel()
	f := faulttoken.New(faulttoken.Pico66)
	f.Put(faulttoken.Object{Label: "of another", Application: "another", Value: []byte("x")})
	f.Put(faulttoken.Object{Label: "name/key", Application: "hsm-secrets-operator", Value: []byte("x")})
	h := run(t, f, func(*Options) {})
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	got := h.status()
	if got.GetFirmwareVersion() != "6.6" || got.GetPinState() != agentv1.PINState_PIN_STATE_ACCEPTED || got.GetPinMessage() != "" {
		t.Errorf("status is %v", got)
	}
	start := got.GetCapacity()
	want := &agentv1.Capacity{
		Profile: "pico", Objects: 3, ObjectLimit: start.GetObjectLimit(), ReservedObjects: start.GetReservedObjects(),
		Bytes: start.GetBytes(), SegmentBytes: 3900, RecordBytes: 64 << 10,
		FreeObjects:    start.GetObjectLimit() - start.GetReservedObjects() - 3,
		FreeBytes:      (start.GetObjectLimit() - start.GetReservedObjects() - 3) * 3900,
		ForeignObjects: 2, LegacyObjects: 1,
	}
	if !proto.Equal(start, want) || start.GetBytes() == 0 {
		t.Errorf("capacity is %v, want %v", start, want)
	}

	free, full := start.GetFreeObjects(), strings.Repeat("x", 3600) // No two fit into one object.
	for i := range free {
		h.commit(put(fmt.Sprint(i), 0, full))
		if got := h.status().GetCapacity(); got.GetFreeObjects() != free-i-1 || got.GetObjects() != start.GetObjects()+i+1 || got.GetBytes() <= start.GetBytes() {
			t.Fatalf("after %d records the capacity is %v", i+1, got)
		}
	}
	if _, err := h.store.Commit(h.ctx, put("one more", 0, full)); agentv1.ReasonOf(err) != agentv1.Reason_REASON_FULL {
		t.Errorf("one more record than fits: %v", err)
	}
	h.module.pull()
	h.await(agentv1.Reason_REASON_TOKEN_ABSENT)
	if got := h.status(); got.GetCapacity() == nil || got.GetFirmwareVersion() != "" {
		t.Errorf("without a token the status is %v", got)
	}
}
