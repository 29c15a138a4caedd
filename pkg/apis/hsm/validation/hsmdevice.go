// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"path"
	"regexp"
	"slices"
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"j5t.io/hsm/pkg/apis/hsm"
)

var (
	usbID       = regexp.MustCompile(`^[0-9a-fA-F]{4}$`)
	permissions = regexp.MustCompile(`^[0-7]{3,4}$`)
)

// ValidateHSMDevice tests an HSMDevice before it is stored.
func ValidateHSMDevice(device *hsm.HSMDevice) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&device.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	spec := field.NewPath("spec")
	if device.Spec.Discovery != nil {
		errs = append(errs, validateDiscovery(device.Spec.Discovery, spec.Child("discovery"))...)
	}
	if device.Spec.PKCS11 != nil {
		errs = append(errs, validatePKCS11(device.Spec.PKCS11, spec.Child("pkcs11"))...)
	}
	if device.Spec.Mirroring != nil {
		errs = append(errs, validateDeviceMirroring(device.Spec.Mirroring, spec.Child("mirroring"))...)
	}
	return errs
}

func validateDiscovery(discovery *hsm.Discovery, fldPath *field.Path) field.ErrorList {
	var errs field.ErrorList
	if usb := discovery.USB; usb != nil {
		errs = append(errs, validateUSBID(usb.VendorID, fldPath.Child("usb", "vendorId"))...)
		errs = append(errs, validateUSBID(usb.ProductID, fldPath.Child("usb", "productId"))...)
	}
	if device := discovery.DevicePath; device != nil {
		fldPath := fldPath.Child("devicePath")
		if device.Path != "" && !isDevicePattern(device.Path) {
			errs = append(errs, field.Invalid(fldPath.Child("path"), device.Path, "must be an absolute path below /dev without '..', or a pattern such as /dev/ttyACM*"))
		}
		if device.Permissions != "" && !permissions.MatchString(device.Permissions) {
			errs = append(errs, field.Invalid(fldPath.Child("permissions"), device.Permissions, "must be 3 or 4 octal digits, such as 0660"))
		}
	}
	return errs
}

// validateUSBID leaves an empty id to the tag that requires it.
func validateUSBID(id string, fldPath *field.Path) field.ErrorList {
	if id == "" || usbID.MatchString(id) {
		return nil
	}
	return field.ErrorList{field.Invalid(fldPath, id, "must be 4 hexadecimal digits, such as 20a0")}
}

func isDevicePattern(pattern string) bool {
	_, err := path.Match(pattern, "")
	return err == nil && strings.HasPrefix(pattern, "/dev/") && isCleanAbs(pattern)
}

func isCleanAbs(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && p != "/"
}

func validatePKCS11(pkcs11 *hsm.PKCS11, fldPath *field.Path) field.ErrorList {
	var errs field.ErrorList
	if pkcs11.LibraryPath != "" && !isCleanAbs(pkcs11.LibraryPath) {
		errs = append(errs, field.Invalid(fldPath.Child("libraryPath"), pkcs11.LibraryPath, "must be an absolute path without '.' and '..', such as /usr/lib/x86_64-linux-gnu/opensc-pkcs11.so"))
	}
	if pin := pkcs11.PINSecret; pin != nil && pin.Key != "" {
		for _, msg := range utilvalidation.IsConfigMapKey(pin.Key) {
			errs = append(errs, field.Invalid(fldPath.Child("pinSecret", "key"), pin.Key, msg))
		}
	}
	return errs
}

func validateDeviceMirroring(mirroring *hsm.DeviceMirroring, fldPath *field.Path) field.ErrorList {
	if mirroring.PrimaryNode == "" || len(mirroring.TargetNodes) == 0 || slices.Contains(mirroring.TargetNodes, mirroring.PrimaryNode) {
		return nil
	}
	return field.ErrorList{field.Invalid(fldPath.Child("primaryNode"), mirroring.PrimaryNode, "must be one of targetNodes, unless targetNodes is empty")}
}
