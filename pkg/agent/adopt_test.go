// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/mtls"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/test/framework/faulttoken"
)

const (
	owned = `{"kind":"HSMSecret","metadata":{"name":"owned","uid":"u1","ownerReferences":[{"uid":"o"}],"finalizers":["f"],"generation":9007199254740993},"spec":{"hsmPath":"p"}}`
	free  = `{"kind":"HSMSecret","metadata":{"name":"free","uid":"u2","labels":{"a":"<b>"}}}`
)

// tokenOfAnotherCluster holds an owned and a free record.
func tokenOfAnotherCluster(t *testing.T) (f *faulttoken.Token, storeID string) {
	t.Helper()
	f = faulttoken.New(faulttoken.Pico66)
	h := run(t, f, func(*Options) {})
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	for name, meta := range map[string]string{"owned": owned, "free": free} {
		in := put(name, 0, "value of "+name)
		in.GetPut().Meta = []byte(meta)
		h.commit(in)
	}
	storeID = h.status().GetStoreId()
	h.stop()
	return f, storeID
}

func TestAdoption(t *testing.T) {
	t.Parallel()
	f, storeID := tokenOfAnotherCluster(t)
	o, files := testOptions(t)
	h := runWith(t, f, o, files)
	h.expectRefused(agentv1.Reason_REASON_TOKEN_FOREIGN)
	if message := h.status().GetMessage(); !strings.Contains(message, storeID) {
		t.Errorf("message %q does not name store %s", message, storeID)
	}
	before := f.Flash()
	report, err := h.device.Adopt(h.ctx, &agentv1.AdoptRequest{StoreId: storeID, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	want := []*agentv1.StrippedRecord{{Key: "owned", Fields: []string{"ownerReferences", "finalizers"}}}
	if report.GetRecords() != 2 || report.GetStoreId() != "" || len(report.GetStripped()) != 1 || report.GetStripped()[0].String() != want[0].String() {
		t.Errorf("the dry run says %v", report)
	}
	if !reflect.DeepEqual(f.Flash(), before) {
		t.Error("the dry run has changed the token")
	}
	if _, err := h.device.Adopt(h.ctx, &agentv1.AdoptRequest{StoreId: strings.Repeat("0", 32)}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("adoption of a store that is not there says %v", err)
	}
	h.expectRefused(agentv1.Reason_REASON_TOKEN_FOREIGN)
	if !reflect.DeepEqual(f.Flash(), before) {
		t.Error("an adoption that was refused has changed the token")
	}

	report, err = h.device.Adopt(h.ctx, &agentv1.AdoptRequest{StoreId: storeID})
	if err != nil || report.GetStoreId() == storeID || len(report.GetStripped()) != 1 {
		t.Fatalf("the adoption says %v, %v", report, err)
	}
	h.checkAdopted(report.GetStoreId())
	if _, err := h.device.Adopt(h.ctx, &agentv1.AdoptRequest{StoreId: storeID}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("adoption of the own store says %v", err)
	}
	h.stop()

	// It is this agent's, and nobody else's.
	h = runWith(t, f, o, files)
	h.checkAdopted(report.GetStoreId())
	h.stop()
	h = run(t, f, func(o *Options) { o.StoreID = storeID })
	h.await(agentv1.Reason_REASON_TOKEN_FOREIGN)
}

func (h *harness) checkAdopted(storeID string) {
	h.Helper()
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	if got := h.status(); got.GetStoreId() != storeID || got.GetRecords() != 2 {
		h.Errorf("status is %v", got)
	}
	if got := h.get("free"); string(got.GetMeta()) != free || string(got.GetData()) != "value of free" {
		h.Errorf("record is %v", got)
	}
	got := h.get("owned")
	var object struct {
		Metadata map[string]json.RawMessage `json:"metadata"`
	}
	if err := json.Unmarshal(got.GetMeta(), &object); err != nil || string(got.GetData()) != "value of owned" {
		h.Fatalf("record is %v: %v", got, err)
	}
	if len(object.Metadata) != 3 || string(object.Metadata["uid"]) != `"u1"` || string(object.Metadata["generation"]) != "9007199254740993" {
		h.Errorf("metadata is %v", object.Metadata)
	}
	h.commit(put("owned", got.GetRevision(), "value of owned"))
	in := put("owned", h.get("owned").GetRevision(), "value of owned")
	in.GetPut().Meta = got.GetMeta()
	h.commit(in)
}

// The token goes away while it is adopted: the caller is told that it is not
// known what came of it, and the adoption goes on when the token is back, also
// of an agent that was started anew meanwhile.
func TestAdoptionThatIsCutShort(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{true, false} {
		t.Run(fmt.Sprintf("restart=%t", restart), func(t *testing.T) {
			t.Parallel()
			f, storeID := tokenOfAnotherCluster(t)
			o, files := testOptions(t)
			h := runWith(t, f, o, files)
			h.await(agentv1.Reason_REASON_TOKEN_FOREIGN)
			f.Fail(faulttoken.Create, faulttoken.Fault{Code: pkcs11.CKRDeviceRemoved})
			release := h.gates.hold(faulttoken.Create)
			defer release()
			go func() {
				<-h.gates.held
				h.module.mu.Lock()
				h.module.hidden = true
				h.module.mu.Unlock()
				release()
			}()
			_, err := h.device.Adopt(h.ctx, &agentv1.AdoptRequest{StoreId: storeID})
			if agentv1.ReasonOf(err) != agentv1.Reason_REASON_OUTCOME_UNKNOWN {
				t.Errorf("the adoption says %v", err)
			}
			h.await(agentv1.Reason_REASON_TOKEN_ABSENT)
			if restart {
				h = restarted(t, h, o, files)
			}
			h.module.plug()
			h.await(agentv1.Reason_REASON_UNSPECIFIED)
			if got := h.status().GetStoreId(); got == storeID {
				t.Errorf("the store is still %s", got)
			}
			h.checkAdopted(h.status().GetStoreId())
		})
	}
}

func restarted(t *testing.T, h *harness, o Options, files mtls.Files) *harness {
	t.Helper()
	h.stop()
	return again(t, h, o, files)
}

// A record that cannot be stripped keeps the whole store from being adopted.
func TestAdoptionOfUnknownRecords(t *testing.T) {
	t.Parallel()
	f := faulttoken.New(faulttoken.SoftHSM)
	storeID := fill(t, f)
	h := run(t, f, func(*Options) {})
	h.await(agentv1.Reason_REASON_TOKEN_FOREIGN)
	before := f.Flash()
	if _, err := h.device.Adopt(h.ctx, &agentv1.AdoptRequest{StoreId: storeID}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("the adoption says %v", err)
	}
	if !reflect.DeepEqual(f.Flash(), before) {
		t.Error("the token was changed")
	}
}

func TestLegacySecretsAreListed(t *testing.T) {
	t.Parallel()
	f := faulttoken.New(faulttoken.Pico66)
	for _, label := range []string{"db/password", "db/user", "db/_metadata", "plain"} {
		f.Put(faulttoken.Object{Label: label, Application: "hsm-secrets-operator", Value: []byte("x")})
	}
	h := run(t, f, func(*Options) {})
	h.await(agentv1.Reason_REASON_UNSPECIFIED)
	got, err := h.device.Legacy(h.ctx, &agentv1.LegacyRequest{})
	if err != nil || len(got.GetSecrets()) != 2 || got.GetSecrets()[0].GetName() != "db" || len(got.GetSecrets()[0].GetKeys()) != 2 || !got.GetSecrets()[0].GetHasMetadata() {
		t.Errorf("the older operator's secrets are %v, %v", got, err)
	}
	if capacity := h.status().GetCapacity(); capacity.GetLegacyObjects() != 4 || capacity.GetForeignObjects() != 4 {
		t.Errorf("capacity is %v", capacity)
	}
}
