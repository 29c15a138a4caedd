// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// dictionaryDigest fixes the dictionary: other bytes would make all that was
// ever written unreadable.
const dictionaryDigest = "201f0d34b037e8ab75e0c2decd85834a878683096cf4de8333cd6036d474a5f8"

func TestDictionaryIsFixed(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256(dictionary1)
	if got := hex.EncodeToString(sum[:]); got != dictionaryDigest {
		t.Fatalf("SHA-256 of dictionary-1.txt is %s, expected %s", got, dictionaryDigest)
	}
}

// sampleDescription is what an HSMSecret that came by kubectl apply looks like
// without its data. The letters that stand for its names do not repeat.
func sampleDescription(i int) description {
	ns, name := fmt.Sprintf("team-%c", 'a'+i%7), fmt.Sprintf("%x-credentials", sha256.Sum256([]byte{byte(i)}))[56:]
	sum := sha256.Sum256(fmt.Append(nil, "uid", i))
	uid := fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
	meta := fmt.Sprintf(`{"kind":"HSMSecret","apiVersion":"hsm.j5t.io/v1alpha1","metadata":{"name":%[1]q,"namespace":%[2]q,"uid":%[3]q,`+
		`"creationTimestamp":"2026-09-1%[4]dT1%[4]d:23:4%[4]dZ","labels":{"app.kubernetes.io/name":"billing-%[4]d","tier":"db"},`+
		`"managedFields":[{"manager":"kubectl","operation":"Apply","apiVersion":"hsm.j5t.io/v1alpha1","time":"2026-09-1%[4]dT1%[4]d:23:4%[4]dZ","fieldsType":"FieldsV1",`+
		`"fieldsV1":{"f:data":{"f:DB_HOST":{},"f:DB_PASSWORD":{},"f:DB_USER":{}},"f:metadata":{"f:labels":{"f:app.kubernetes.io/name":{},"f:tier":{}}},`+
		`"f:spec":{"f:autoSync":{},"f:hsmPath":{},"f:secretName":{},"f:secretType":{},"f:syncInterval":{}}}}]},`+
		`"spec":{"hsmPath":"secrets/%[2]s/%[1]s","secretName":%[1]q,"secretType":"Opaque","autoSync":true,"syncInterval":300,"syncDirection":"Bidirectional","deletionPolicy":"Delete"},"status":{}}`,
		name, ns, uid, i%10)
	return description{key: ns + "/" + name, address: "secrets/" + ns + "/" + name, meta: []byte(meta)}
}

func TestDescriptionsShrink(t *testing.T) {
	t.Parallel()
	for i := range 20 {
		d := sampleDescription(i)
		b := appendDescription(nil, d)
		if len(d.meta) < 850 || len(b) > 250 {
			t.Errorf("metadata of %d bytes became %d, expected at least 850 and at most 250", len(d.meta), len(b))
		}
		in := decoder{rest: b}
		if got := in.description(); in.err != nil || got.key != d.key || got.address != d.address || !bytes.Equal(got.meta, d.meta) {
			t.Fatalf("it came back as %v, %v", got, in.err)
		}
	}
}

func TestDescriptionsAreBounded(t *testing.T) {
	t.Parallel()
	bomb := deflate(bytes.Repeat([]byte{0}, MaxDescriptionBytes+1))
	for name, body := range map[string][]byte{
		"grows too much":  bomb,
		"is cut short":    bomb[:len(bomb)-3],
		"has a tail":      append(deflate([]byte{0, 0}), 1),
		"is not deflated": []byte("not deflated"),
	} {
		if _, err := inflate(body); err == nil {
			t.Errorf("a description that %s was read", name)
		}
	}
	in := decoder{rest: []byte{7, 2, 0, 0}}
	if in.description(); in.err == nil || !strings.Contains(in.err.Error(), "encoding 7") {
		t.Errorf("an unknown encoding gave %v", in.err)
	}
}
