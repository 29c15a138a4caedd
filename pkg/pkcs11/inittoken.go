// SPDX-License-Identifier: Apache-2.0

package pkcs11

/*
#cgo linux LDFLAGS: -ldl
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>

// The beginning of CK_FUNCTION_LIST, PKCS#11 v2.40 section 3.6, up to C_InitToken.
struct function_list {
	unsigned char version[2];
	void *before[9];
	unsigned long (*init_token)(unsigned long slot, unsigned char *pin, unsigned long pin_length, unsigned char *label);
};

// init_token calls C_InitToken of a module that is loaded already, with NULL for the label.
static unsigned long init_token(const char *path, unsigned long slot, void *pin, unsigned long pin_length, unsigned long not_found) {
	void *module = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
	if (module == NULL)
		return not_found;
	unsigned long (*get_function_list)(struct function_list **) =
		(unsigned long (*)(struct function_list **))dlsym(module, "C_GetFunctionList");
	struct function_list *list = NULL;
	unsigned long code = not_found;
	if (get_function_list != NULL && get_function_list(&list) == 0 && list != NULL && list->init_token != NULL)
		code = list->init_token(slot, pin, pin_length, NULL);
	dlclose(module);
	return code;
}
*/
import "C"

import (
	"unsafe"

	"github.com/miekg/pkcs11"
)

// initTokenWithoutLabel is C_InitToken with NULL for a label, which the binding cannot
// give: a Go string becomes 32 bytes.
func (m *Module) initTokenWithoutLabel(slotID uint, soPIN []byte) error {
	path := C.CString(m.path)
	defer C.free(unsafe.Pointer(path))
	code := C.init_token(path, C.ulong(slotID), unsafe.Pointer(unsafe.SliceData(soPIN)), C.ulong(len(soPIN)), C.ulong(CKRFunctionFailed))
	if code == 0 {
		return nil
	}
	return wrap("C_InitToken", pkcs11.Error(code))
}
