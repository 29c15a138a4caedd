// SPDX-License-Identifier: Apache-2.0

package hsmsecret

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/json"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/storage/records"
)

// statusSubresource is what managedFields call the owner of status fields.
const statusSubresource = "status"

// dataFormat is the first byte of a data part that is not empty.
const dataFormat = 1

// layout keeps an HSMSecret as follows.
//
//	address  spec.hsmPath
//	meta     the versioned object, with the names of its data, but without their
//	         values, without status, and without managedFields of status. The
//	         defaults of spec.hsmPath and spec.secretName are written out
//	data     the names and values of data
//	status   status and its managedFields, but not what Join fills in
type layout struct {
	codec runtime.Codec
}

// NewLayout returns the layout of HSMSecrets. The codec decides which version is
// stored.
func NewLayout(codec runtime.Codec) records.Layout { return layout{codec} }

// AddressField implements records.Layout.
func (layout) AddressField() *field.Path { return field.NewPath("spec", "hsmPath") }

// Split implements records.Layout.
func (l layout) Split(obj runtime.Object) (records.Parts, error) {
	secret, ok := obj.(*hsm.HSMSecret)
	if !ok {
		return records.Parts{}, fmt.Errorf("want an HSMSecret, got a %T", obj)
	}
	rest, state := *secret, hsm.HSMSecret{Status: secret.Status}
	rest.ManagedFields = nil
	for _, entry := range secret.ManagedFields {
		if entry.Subresource == statusSubresource {
			state.ManagedFields = append(state.ManagedFields, entry)
		} else {
			rest.ManagedFields = append(rest.ManagedFields, entry)
		}
	}
	rest.Status = hsm.HSMSecretStatus{}
	rest.Spec = withDefaults(secret)
	rest.Data = make(map[string][]byte, len(secret.Data))
	for name := range secret.Data {
		rest.Data[name] = []byte{}
	}
	state.Status.HSMPath, state.Status.DataVersion, state.Status.PrimaryDevice, state.Status.DeviceSyncStatus = "", "", "", nil

	parts := records.Parts{Address: secret.Path(), Data: encodeData(secret.Data)}
	var err error
	if parts.Meta, err = runtime.Encode(l.codec, &rest); err != nil {
		return records.Parts{}, err
	}
	if !equality.Semantic.DeepEqual(state, hsm.HSMSecret{}) {
		parts.Status, err = runtime.Encode(l.codec, &state)
	}
	return parts, err
}

// Join implements records.Layout. A record that was read without data becomes an
// object with empty values. Join fills in status.hsmPath, and what only the token that
// answered can know: status.dataVersion, status.primaryDevice, status.deviceSyncStatus.
func (l layout) Join(record *agentv1.Record, from records.Source, into runtime.Object) error {
	secret, ok := into.(*hsm.HSMSecret)
	if !ok {
		return fmt.Errorf("want an HSMSecret, got a %T", into)
	}
	if err := l.join(record, from, secret); err != nil {
		return fmt.Errorf("%w: %w", records.ErrCorrupt, err)
	}
	version := strconv.FormatUint(record.GetDataRevision(), 10)
	secret.Status.HSMPath = record.GetAddress()
	secret.Status.DataVersion = version
	secret.Status.PrimaryDevice = from.Serial
	secret.Status.DeviceSyncStatus = []hsm.DeviceSyncStatus{{
		SerialNumber: from.Serial,
		SyncStatus:   hsm.SyncStatusInSync,
		DataVersion:  version,
	}}
	return nil
}

func (l layout) join(record *agentv1.Record, from records.Source, secret *hsm.HSMSecret) error {
	if err := l.decode(record.GetMeta(), secret); err != nil {
		return err
	}
	dropDefaults(secret)
	if !from.WithoutData {
		data, err := decodeData(record.GetData())
		if err != nil {
			return err
		}
		if !slices.Equal(slices.Sorted(maps.Keys(data)), slices.Sorted(maps.Keys(secret.Data))) {
			return errors.New("the keys of data and of its values differ")
		}
		secret.Data = data
	}
	if len(record.GetStatus()) == 0 {
		return nil
	}
	state := &hsm.HSMSecret{}
	if err := l.decode(record.GetStatus(), state); err != nil {
		return err
	}
	secret.Status = state.Status
	secret.ManagedFields = append(secret.ManagedFields, state.ManagedFields...)
	slices.SortFunc(secret.ManagedFields, compareManagedFields)
	return nil
}

// dropDefaults empties the fields that hold a default that nobody has set. Else a copy of
// the object would be sent with the path and the Secret of the original. Who has set a
// field is in managedFields, which know no default that a strategy has filled in.
func dropDefaults(secret *hsm.HSMSecret) {
	isSet := func(field string) bool {
		return slices.ContainsFunc(secret.ManagedFields, func(entry metav1.ManagedFieldsEntry) bool {
			return entry.FieldsV1 != nil && bytes.Contains(entry.FieldsV1.GetRawBytes(), []byte(field))
		})
	}
	if secret.HasDefaultPath() && !isSet(`"f:hsmPath"`) {
		secret.Spec.HSMPath = ""
	}
	if secret.Spec.SecretName == secret.Name && !isSet(`"f:secretName"`) {
		secret.Spec.SecretName = ""
	}
}

// storedVersion begins the JSON of an object in the version that the codec writes.
var storedVersion = []byte(`{"kind":"HSMSecret","apiVersion":"` + v1alpha1.SchemeGroupVersion.String() + `",`)

// decode does what the codec does, but reads each object once. The codec reads it
// twice, to learn its version first, which is slow in lists.
func (l layout) decode(content []byte, into *hsm.HSMSecret) error {
	if !bytes.HasPrefix(content, storedVersion) {
		return runtime.DecodeInto(l.codec, content, into)
	}
	stored := &v1alpha1.HSMSecret{}
	if err := json.UnmarshalCaseSensitivePreserveInts(content, stored); err != nil {
		return err
	}
	v1alpha1.SetObjectDefaults_HSMSecret(stored)
	return v1alpha1.Convert_v1alpha1_HSMSecret_To_hsm_HSMSecret(stored, into, nil)
}

// compareManagedFields orders managedFields as k8s.io/apimachinery does. In any other
// order, an update that changes nothing would look like a change.
func compareManagedFields(p, q metav1.ManagedFieldsEntry) int {
	seconds := func(t *metav1.Time) int64 {
		if t == nil {
			return 0
		}
		return t.Unix()
	}
	return cmp.Or(
		cmp.Compare(p.Operation, q.Operation),
		cmp.Compare(seconds(p.Time), seconds(q.Time)),
		cmp.Compare(p.Manager, q.Manager),
		cmp.Compare(p.APIVersion, q.APIVersion),
		cmp.Compare(p.Subresource, q.Subresource),
	)
}

// encodeData returns the same bytes for the same data: dataFormat, then for each name
// in order the length of the name, the name, the length of the value, the value.
// Lengths are unsigned varints. No data is no bytes.
func encodeData(data map[string][]byte) []byte {
	if len(data) == 0 {
		return nil
	}
	b := []byte{dataFormat}
	for _, name := range slices.Sorted(maps.Keys(data)) {
		b = binary.AppendUvarint(b, uint64(len(name)))
		b = append(b, name...)
		b = binary.AppendUvarint(b, uint64(len(data[name])))
		b = append(b, data[name]...)
	}
	return b
}

// decodeData accepts only what encodeData returns.
func decodeData(b []byte) (map[string][]byte, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if b[0] != dataFormat {
		return nil, fmt.Errorf("data has format %d, which a newer server wrote: upgrade this API server", b[0])
	}
	rest := b[1:]
	next := func() (part []byte, err error) {
		length, n := binary.Uvarint(rest)
		if n <= 0 || length > uint64(len(rest)-n) {
			return nil, errors.New("data ends in the middle of an entry")
		}
		part, rest = rest[n:n+int(length)], rest[n+int(length):]
		return part, nil
	}
	data := map[string][]byte{}
	for len(rest) > 0 {
		name, err := next()
		if err != nil {
			return nil, err
		}
		value, err := next()
		if err != nil {
			return nil, err
		}
		data[string(name)] = slices.Clone(value)
	}
	if !bytes.Equal(encodeData(data), b) {
		return nil, errors.New("the keys of data are not sorted")
	}
	return data, nil
}
