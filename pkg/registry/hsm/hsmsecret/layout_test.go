// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/install"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/storage/records"
)

func newTestLayout() records.Layout {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	return NewLayout(serializer.NewCodecFactory(scheme).LegacyCodec(v1alpha1.SchemeGroupVersion))
}

const value = "correct horse battery staple"

func newSecret() *hsm.HSMSecret {
	autoSync := false
	at := metav1.NewTime(time.Unix(1_700_000_000, 0))
	later := metav1.NewTime(at.Add(time.Hour))
	entry := func(manager, subresource string, op metav1.ManagedFieldsOperationType, at metav1.Time) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{
			Manager: manager, Operation: op, APIVersion: "hsm.j5t.io/v1alpha1", Time: &at, FieldsType: "FieldsV1",
			FieldsV1: metav1.NewFieldsV1(`{"f:status":{}}`), Subresource: subresource,
		}
	}
	return &hsm.HSMSecret{
		ObjectMeta: metav1.ObjectMeta{
			Name: "db", Namespace: "prod", UID: "u-1", Generation: 3, CreationTimestamp: at,
			Labels: map[string]string{"a": "b", "c": "d"},
			// As k8s.io/apimachinery sorts them: status entries are among the others.
			ManagedFields: []metav1.ManagedFieldsEntry{
				entry("argo", "", metav1.ManagedFieldsOperationApply, later),
				entry("kubectl", "", metav1.ManagedFieldsOperationUpdate, at),
				entry("projector", "status", metav1.ManagedFieldsOperationUpdate, at),
				entry("editor", "", metav1.ManagedFieldsOperationUpdate, later),
			},
		},
		Spec: hsm.HSMSecretSpec{
			HSMPath: "secrets/prod/db", SecretName: "db", SecretType: corev1.SecretTypeOpaque, AutoSync: &autoSync,
			SyncInterval: 300, SyncDirection: hsm.SyncDirectionBidirectional, DeletionPolicy: hsm.DeletionPolicyDelete,
		},
		Data:   map[string][]byte{"password": []byte(value), "user": []byte("app"), "empty": {}},
		Status: hsm.HSMSecretStatus{SyncStatus: hsm.SyncStatusInSync, LastSyncTime: &at, ObservedGeneration: 3},
	}
}

func mustSplit(t *testing.T, l records.Layout, secret *hsm.HSMSecret) records.Parts {
	t.Helper()
	before := secret.DeepCopy()
	parts, err := l.Split(secret)
	if err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(before, secret) {
		t.Error("split has changed the object")
	}
	return parts
}

func recordOf(p records.Parts) *agentv1.Record {
	return &agentv1.Record{Address: p.Address, Meta: p.Meta, Data: p.Data, Status: p.Status, Revision: 9, DataRevision: 7}
}

func mustJoin(t *testing.T, l records.Layout, r *agentv1.Record) *hsm.HSMSecret {
	t.Helper()
	secret := &hsm.HSMSecret{}
	if err := l.Join(r, records.Source{Serial: "SERIAL"}, secret); err != nil {
		t.Fatal(err)
	}
	return secret
}

func TestLayoutRoundTrip(t *testing.T) {
	t.Parallel()
	l := newTestLayout()
	want := newSecret()
	parts := mustSplit(t, l, want)
	if parts.Address != "secrets/prod/db" || l.AddressField().String() != "spec.hsmPath" {
		t.Errorf("address %q of %s", parts.Address, l.AddressField())
	}
	got := mustJoin(t, l, recordOf(parts))
	want.Spec.HSMPath, want.Spec.SecretName = "", "" // The defaults.
	want.Status.HSMPath, want.Status.DataVersion, want.Status.PrimaryDevice = "secrets/prod/db", "7", "SERIAL"
	want.Status.DeviceSyncStatus = []hsm.DeviceSyncStatus{{SerialNumber: "SERIAL", SyncStatus: hsm.SyncStatusInSync, DataVersion: "7"}}
	if !equality.Semantic.DeepEqual(want, got) {
		t.Errorf("want %+v\ngot  %+v", want, got)
	}

	// What was read and is written back is the same, byte for byte; what Join
	// has filled in is not stored.
	again := mustSplit(t, l, got)
	for name, differ := range map[string]bool{
		"meta":   !bytes.Equal(parts.Meta, again.Meta),
		"data":   !bytes.Equal(parts.Data, again.Data),
		"status": !bytes.Equal(parts.Status, again.Status),
	} {
		if differ {
			t.Errorf("%s is not the same after a round trip", name)
		}
	}
}

// TestLayoutDecodesAsTheCodec: what is stored is read without the codec, and the
// same comes of it. What another version has stored goes through the codec.
func TestLayoutDecodesAsTheCodec(t *testing.T) {
	t.Parallel()
	l := newTestLayout().(layout)
	meta := mustSplit(t, l, newSecret()).Meta
	if !bytes.HasPrefix(meta, storedVersion) {
		t.Fatalf("it is not stored as %s: %s", storedVersion, meta)
	}
	minimal := append(bytes.Clone(storedVersion), `"metadata":{"name":"db","namespace":"prod"}}`...)
	foreign := []byte(`{"apiVersion":"hsm.j5t.io/v1alpha1","kind":"HSMSecret","metadata":{"name":"db"}}`)
	for _, content := range [][]byte{meta, minimal, foreign} {
		want, got := &hsm.HSMSecret{}, &hsm.HSMSecret{}
		if err := runtime.DecodeInto(l.codec, content, want); err != nil {
			t.Fatal(err)
		}
		if err := l.decode(content, got); err != nil || !equality.Semantic.DeepEqual(want, got) {
			t.Errorf("%s: %v\nwant %+v\ngot  %+v", content, err, want, got)
		}
	}
}

// TestLayoutKeepsValuesApart is law 5: only data lies on the token alone.
func TestLayoutKeepsValuesApart(t *testing.T) {
	t.Parallel()
	l := newTestLayout()
	parts := mustSplit(t, l, newSecret())
	encoded := []byte("Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ") // value in base64
	for name, part := range map[string][]byte{"meta": parts.Meta, "status": parts.Status} {
		if bytes.Contains(part, []byte(value)) || bytes.Contains(part, encoded) {
			t.Errorf("%s holds a value", name)
		}
	}
	if !bytes.Contains(parts.Data, []byte(value)) || !bytes.Contains(parts.Meta, []byte("password")) {
		t.Error("the value is not in data, or its name not in meta")
	}
	if bytes.Contains(parts.Meta, []byte("projector")) || bytes.Contains(parts.Meta, []byte("InSync")) {
		t.Error("meta holds status")
	}
}

func TestLayoutParts(t *testing.T) {
	t.Parallel()
	l := newTestLayout()
	base := mustSplit(t, l, newSecret())
	for name, c := range map[string]struct {
		change             func(*hsm.HSMSecret)
		meta, data, status bool // What differs.
	}{
		"label":                   {func(s *hsm.HSMSecret) { s.Labels["a"] = "x" }, true, false, false},
		"value":                   {func(s *hsm.HSMSecret) { s.Data["user"] = []byte("root") }, false, true, false},
		"name of data":            {func(s *hsm.HSMSecret) { s.Data["new"] = nil }, true, true, false},
		"sync status":             {func(s *hsm.HSMSecret) { s.Status.SyncStatus = hsm.SyncStatusError }, false, false, true},
		"owner of a status field": {func(s *hsm.HSMSecret) { s.ManagedFields[2].Manager = "other" }, false, false, true},
		"owner of a field":        {func(s *hsm.HSMSecret) { s.ManagedFields[1].Manager = "other" }, true, false, false},
		"what Join fills in": {func(s *hsm.HSMSecret) {
			s.Spec.HSMPath, s.Spec.SecretName = "", ""
			s.Status.HSMPath, s.Status.DataVersion, s.Status.PrimaryDevice = "p", "1", "other"
			s.Status.DeviceSyncStatus = []hsm.DeviceSyncStatus{{}}
		}, false, false, false},
	} {
		secret := newSecret()
		c.change(secret)
		parts := mustSplit(t, l, secret)
		if got := !bytes.Equal(base.Meta, parts.Meta); got != c.meta {
			t.Errorf("%s: meta differs: %t", name, got)
		}
		if got := !bytes.Equal(base.Data, parts.Data); got != c.data {
			t.Errorf("%s: data differs: %t", name, got)
		}
		if got := !bytes.Equal(base.Status, parts.Status); got != c.status {
			t.Errorf("%s: status differs: %t", name, got)
		}
	}

	bare := &hsm.HSMSecret{ObjectMeta: metav1.ObjectMeta{Name: "db"}}
	if parts := mustSplit(t, l, bare); parts.Data != nil || parts.Status != nil {
		t.Errorf("nothing is stored as %q and %q", parts.Data, parts.Status)
	}
	if _, err := l.Split(&hsm.HSMDevice{}); err == nil {
		t.Error("an HSMDevice is taken")
	}
}

// TestLayoutDefaults: a default comes back only where somebody has set it, also in records
// of servers that stored defaults as if somebody had.
func TestLayoutDefaults(t *testing.T) {
	t.Parallel()
	l := newTestLayout()
	for name, c := range map[string]struct {
		path, secretName         string // As given.
		fields                   string // Of managedFields.
		wantPath, wantSecretName string
	}{
		"left out":              {"", "", `{"f:spec":{"f:syncInterval":{}}}`, "", ""},
		"filled in by a server": {"secrets/prod/db", "db", `{"f:spec":{"f:syncInterval":{}}}`, "", ""},
		"set":                   {"secrets/prod/db", "db", `{"f:spec":{"f:hsmPath":{},"f:secretName":{}}}`, "secrets/prod/db", "db"},
		"one set":               {"secrets/prod/db", "db", `{"f:spec":{"f:secretName":{}}}`, "", "db"},
		"others":                {"shared/db", "other", `{"f:spec":{}}`, "shared/db", "other"},
	} {
		secret := newSecret()
		secret.Spec.HSMPath, secret.Spec.SecretName = c.path, c.secretName
		secret.ManagedFields[1].FieldsV1 = metav1.NewFieldsV1(c.fields)
		parts := mustSplit(t, l, secret)
		got := mustJoin(t, l, recordOf(parts))
		if got.Spec.HSMPath != c.wantPath || got.Spec.SecretName != c.wantSecretName {
			t.Errorf("%s: got %q and %q, want %q and %q", name, got.Spec.HSMPath, got.Spec.SecretName, c.wantPath, c.wantSecretName)
		}
		if got.Path() != secret.Path() || got.SecretName() != secret.SecretName() || got.Status.HSMPath != secret.Path() {
			t.Errorf("%s: its path is %q, its Secret %q", name, got.Path(), got.SecretName())
		}
		// Nothing is written because of it: tokens wear.
		if again := mustSplit(t, l, got); again.Address != parts.Address || !bytes.Equal(again.Meta, parts.Meta) {
			t.Errorf("%s: it is not stored as before", name)
		}
	}
}

// TestLayoutWithoutStatus is of an agent that has restarted.
func TestLayoutWithoutStatus(t *testing.T) {
	t.Parallel()
	l := newTestLayout()
	record := recordOf(mustSplit(t, l, newSecret()))
	record.Status = nil
	got := mustJoin(t, l, record)
	if got.Status.SyncStatus != "" || got.Status.PrimaryDevice != "SERIAL" || len(got.ManagedFields) != 3 {
		t.Errorf("%+v, %d managers", got.Status, len(got.ManagedFields))
	}
}

// TestLayoutWithoutData is of a list that shows no values.
func TestLayoutWithoutData(t *testing.T) {
	t.Parallel()
	l := newTestLayout()
	record := recordOf(mustSplit(t, l, newSecret()))
	record.Data = nil
	secret := &hsm.HSMSecret{}
	if err := l.Join(record, records.Source{Serial: "SERIAL", WithoutData: true}, secret); err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(secret.Data))
	if !slices.Equal(names, []string{"empty", "password", "user"}) || len(secret.Data["password"]) != 0 {
		t.Errorf("data %v", secret.Data)
	}
}

func TestLayoutCorrupt(t *testing.T) {
	t.Parallel()
	l := newTestLayout()
	for name, damage := range map[string]func(*agentv1.Record){
		"meta":          func(r *agentv1.Record) { r.Meta = r.GetMeta()[:40] },
		"no meta":       func(r *agentv1.Record) { r.Meta = nil },
		"data":          func(r *agentv1.Record) { r.Data = r.GetData()[:10] },
		"no data":       func(r *agentv1.Record) { r.Data = nil },
		"status":        func(r *agentv1.Record) { r.Status = []byte("{") },
		"format":        func(r *agentv1.Record) { r.Data = append([]byte{dataFormat + 1}, r.GetData()[1:]...) },
		"another kind":  func(r *agentv1.Record) { r.Meta = []byte(`{"apiVersion":"hsm.j5t.io/v1alpha1","kind":"HSMPool"}`) },
		"other secrets": func(r *agentv1.Record) { r.Data = encodeData(map[string][]byte{"x": nil}) },
	} {
		record := recordOf(mustSplit(t, l, newSecret()))
		damage(record)
		if err := l.Join(record, records.Source{Serial: "SERIAL"}, &hsm.HSMSecret{}); !errors.Is(err, records.ErrCorrupt) {
			t.Errorf("%s: want an error that says that it is corrupt, got %v", name, err)
		}
	}
}

func FuzzDecodeData(f *testing.F) {
	f.Add(encodeData(newSecret().Data))
	f.Add(encodeData(map[string][]byte{"": {}}))
	f.Add([]byte{dataFormat})
	f.Add([]byte{dataFormat, 0x80, 0x00, 0x00})
	f.Add([]byte{dataFormat, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		data, err := decodeData(b)
		if err != nil {
			return
		}
		if again := encodeData(data); !bytes.Equal(again, b) && len(b) > 0 {
			t.Errorf("%x is read as %v, which is %x", b, slices.Collect(maps.Keys(data)), again)
		}
	})
}
