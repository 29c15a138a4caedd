// SPDX-License-Identifier: Apache-2.0

package projection

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/identity"
)

// KeyName is the HSMSecret of the system namespace that holds the key of
// checksums. It is never projected.
const KeyName = identity.Name + "-checksum-key"

const (
	keyData = "key"
	keySize = 32 // Bytes, the size of SHA-256.
)

// keys gives the key of checksums. It is kept on the token, beside what it
// protects: so each store has its own, and it is nowhere in the clear.
type keys struct {
	client client.Client
	values *values
	name   types.NamespacedName

	mu  sync.Mutex
	key []byte
}

// get reads the key once, and makes it if there is none.
func (k *keys) get(ctx context.Context) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.key != nil {
		return k.key, nil
	}
	holder := &v1alpha1.HSMSecret{}
	err := k.client.Get(ctx, k.name, holder)
	if apierrors.IsNotFound(err) {
		holder, err = k.create(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("key of checksums: %w", err)
	}
	if err := k.values.areShown(ctx, holder); err != nil {
		return nil, fmt.Errorf("key of checksums: %w", err)
	}
	if len(holder.Data[keyData]) != keySize {
		return nil, fmt.Errorf("key of checksums: HSMSecret %s has no %d bytes in data.%s: delete it to have a new key made", k.name, keySize, keyData)
	}
	k.key = holder.Data[keyData]
	return k.key, nil
}

func (k *keys) create(ctx context.Context) (*v1alpha1.HSMSecret, error) {
	key := make([]byte, keySize)
	// It never fails, or ends the process.
	_, _ = rand.Read(key)
	holder := &v1alpha1.HSMSecret{
		ObjectMeta: metav1.ObjectMeta{Namespace: k.name.Namespace, Name: k.name.Name},
		Immutable:  new(true),
		Data:       map[string][]byte{keyData: key},
	}
	return holder, k.client.Create(ctx, holder, client.FieldOwner(identity.FieldManager))
}

// checksum is the keyed checksum of the data of one object: that of another
// object differs, though its data be the same.
func checksum(key []byte, uid types.UID, data map[string][]byte) string {
	mac := hmac.New(sha256.New, key)
	write := func(part []byte) {
		_ = binary.Write(mac, binary.BigEndian, uint64(len(part)))
		_, _ = mac.Write(part)
	}
	_, _ = io.WriteString(mac, "hsm.j5t.io/checksum 1\n")
	write([]byte(uid))
	for _, name := range slices.Sorted(maps.Keys(data)) {
		write([]byte(name))
		write(data[name])
	}
	return "hmac-sha256:" + hex.EncodeToString(mac.Sum(nil))
}
