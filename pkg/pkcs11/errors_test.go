// SPDX-License-Identifier: Apache-2.0

package pkcs11_test

import (
	"fmt"
	"testing"

	"j5t.io/hsm/pkg/pkcs11"
)

func TestClasses(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, class := range pkcs11.Classes() {
		names[class.String()] = true
	}
	if len(names) != len(pkcs11.Classes()) || names[""] || names[pkcs11.Class(len(names)).String()] {
		t.Errorf("the classes are named %v", names)
	}
	for _, test := range []struct {
		err  error
		want pkcs11.Class
	}{
		{nil, pkcs11.ClassNone},
		{fmt.Errorf("of somebody else"), pkcs11.ClassNone},
		{&pkcs11.Error{Op: "C_Login", Code: pkcs11.CKRArgumentsBad}, pkcs11.ClassOther},
		{fmt.Errorf("later: %w", &pkcs11.Error{Op: "C_Login", Code: pkcs11.CKRPINInvalid}), pkcs11.ClassPINRejected},
		{&pkcs11.Error{Op: "C_SetPIN", Code: pkcs11.CKRPINInvalid}, pkcs11.ClassPINUnfit},
		{fmt.Errorf("%w: another one", pkcs11.ErrTokenAbsent), pkcs11.ClassTokenAbsent},
		{pkcs11.ErrTokenAmbiguous, pkcs11.ClassTokenAmbiguous},
		{pkcs11.ErrNotBlank, pkcs11.ClassNotBlank},
	} {
		if got := pkcs11.ClassOf(test.err); got != test.want {
			t.Errorf("%v is of class %v, expected %v", test.err, got, test.want)
		}
	}
	if _, err := pkcs11.Open("relative.so"); pkcs11.ClassOf(err) != pkcs11.ClassInvalid {
		t.Errorf("a relative path gave %v", err)
	}
	if _, err := pkcs11.Open("/absent.so"); pkcs11.ClassOf(err) != pkcs11.ClassModule {
		t.Errorf("a missing library gave %v", err)
	}
}
