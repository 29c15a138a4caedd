// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"fmt"
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"

	"j5t.io/hsm/pkg/apis/hsm"
)

// Convert_v1alpha1_HSMSecret_To_hsm_HSMSecret folds what is write only, as core
// Secret's conversion does: stringData goes into data, and the values in
// kubectl's last-applied-configuration are blanked. Here, not in the strategy:
// patches, server-side apply and the comparison that finds no-op updates all
// work on converted objects, so a repeated write stays a no-op.
func Convert_v1alpha1_HSMSecret_To_hsm_HSMSecret(in *HSMSecret, out *hsm.HSMSecret, s conversion.Scope) error {
	if err := autoConvert_v1alpha1_HSMSecret_To_hsm_HSMSecret(in, out, s); err != nil {
		return err
	}
	// out shares its maps with in, which stays as it is.
	out.Annotations = WithBlankLastApplied(out.Annotations)
	if len(in.StringData) > 0 {
		data := maps.Clone(in.Data)
		if data == nil {
			data = make(map[string][]byte, len(in.StringData))
		}
		for name, value := range in.StringData {
			data[name] = []byte(value)
		}
		out.Data = data
	}
	return nil
}

func addFieldLabelConversions(scheme *runtime.Scheme) error {
	return scheme.AddFieldLabelConversionFunc(SchemeGroupVersion.WithKind("HSMSecret"),
		func(label, value string) (string, string, error) {
			switch label {
			case metav1.ObjectNameField, "metadata.namespace",
				hsm.HSMPathField, hsm.SecretNameField, hsm.SecretTypeField:
				return label, value, nil
			case "type":
				return hsm.SecretTypeField, value, nil
			default:
				return "", "", fmt.Errorf("field label %q is not supported for HSMSecret: use metadata.name, metadata.namespace, type, %s, %s or %s",
					label, hsm.SecretTypeField, hsm.SecretNameField, hsm.HSMPathField)
			}
		})
}
