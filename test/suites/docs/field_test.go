// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// fieldCases are faults that users of products of this kind have reported, and what works
// today and is to stay so; each with the tests that have the right value. A test is a
// file, a function, and, where it is a row of a table, a text of the row.
var fieldCases = []struct {
	name  string
	tests []string
}{
	{"an object is copied to another namespace or name", []string{
		"test/suites/e2e/copy_test.go TestCopy", "pkg/registry/hsm/hsmsecret/layout_test.go TestLayoutDefaults"}},
	{"a retained Secret, and its HSMSecret made again", []string{
		"pkg/controller/projection/facts_test.go TestOwnership retained by an earlier one, same data", "test/suites/behaviour/table_test.go TestTable HSMSecret deleted and made again"}},
	{"a health rule and a comparison for Argo CD", []string{"artifacts/gitops/gitops_test.go TestHealth"}},
	{"last-applied-configuration is compared by others", []string{"pkg/registry/hsm/hsmsecret/strategy_test.go TestRepeatedWriteIsNoOp"}},
	{"a Secret that has to be made again has a finalizer", []string{
		"test/suites/behaviour/field_test.go TestSecretWithFinalizer", "pkg/controller/projection/ending_test.go TestRacesBackOff"}},
	{"labels and annotations are wanted on the Secret", []string{
		"test/suites/behaviour/field_test.go TestTemplate", "test/suites/e2e/copy_test.go TestTemplateRight"}},
	{"kustomize renames", []string{"test/suites/e2e/gitops_test.go TestKustomize"}},
	{"a token of a ServiceAccount", []string{"pkg/apis/hsm/validation/hsmsecret_test.go TestHSMSecret service-account-token is for Kubernetes"}},
	{"a reader that libccid does not know", []string{"pkg/discovery/known/complete_test.go TestCompletedReadersAreKnown"}},
	{"pcscd asks polkit in a container", []string{"artifacts/image/image_test.go TestDisablePolkit built with polkit"}},
	{"manifests of the older operator", []string{"test/suites/e2e/gitops_test.go TestManifestOfTheOlderOperator"}},
	{"kubectl diff after apply", []string{"test/suites/e2e/gitops_test.go TestUnchangedApply"}},
	{"the ConfigMap of namespaces is emptied or set back", []string{
		"test/suites/e2e/namespaces_test.go TestNamespacesReplaced",
		"pkg/storage/namespaces/namespaces_test.go TestChangedConfigMap", "pkg/storage/namespaces/namespaces_test.go TestCompleted"}},
	{"the projected Secret is replaced as a whole", []string{
		"test/suites/behaviour/field_test.go TestSecretReplacedAsAWhole", "pkg/controller/projection/facts_test.go TestFactsOfReplacedSecret"}},
	{"HSMSecrets swap their Secrets", []string{"test/suites/behaviour/field_test.go TestSwap"}},
	{"a Secret is deleted again and again", []string{"test/suites/behaviour/field_test.go TestSecretDeletedAgainAndAgain"}},

	// What worked when it was tried, and is to stay so.
	{"a key of stringData is renamed", []string{"test/suites/e2e/apply_test.go TestLastApplied data after the key was renamed"}},
	{"an immutable object is applied again, with labels, and by force", []string{"test/suites/e2e/gitops_test.go TestImmutableAppliedAgain"}},
	{"server-side diff", []string{"test/suites/e2e/gitops_test.go TestUnchangedApply diff, server side"}},
	{"Flux applies again what was edited", []string{"test/suites/behaviour/clients_test.go TestFluxAppliesAgain"}},
	{"a plan by OpenAPI and its result", []string{"test/suites/e2e/clients_test.go TestPlanEqualsResult"}},
	{"Helm installs, upgrades, rolls back and uninstalls", []string{"test/suites/e2e/clients_test.go TestHelm"}},
	{"manifests of Secrets are converted", []string{"test/suites/behaviour/clients_test.go TestConvertedManifests"}},
	{"the headers of a watch come at once", []string{"test/suites/e2e/clients_test.go TestWatchHeadersAtOnce"}},
	{"a watch ends at its timeout", []string{"test/suites/compare/watch_test.go watch with a timeout"}},
	{"last-applied is viewed, set and edited", []string{"test/suites/e2e/apply_test.go TestLastApplied edit-last-applied"}},
	{"an ApplySet prunes", []string{"test/suites/e2e/gitops_test.go TestApplySetPrunes"}},
}

// TestFieldCases counts the cases whose tests are all there, and are not skipped.
func TestFieldCases(t *testing.T) {
	tested := 0
	for _, c := range fieldCases {
		missing := 0
		for _, test := range c.tests {
			path, rest, _ := strings.Cut(test, " ")
			code := read(t, path)
			name, row, _ := strings.Cut(rest, " ")
			if !strings.HasPrefix(name, "Test") {
				name, row = "", rest
			}
			switch {
			case name != "" && !regexp.MustCompile(`(?m)^func `+name+`\(`).MatchString(code), row != "" && !strings.Contains(code, row):
				t.Errorf("%s: there is no test %s", c.name, test)
				missing++
			case strings.Contains(code, "t.Skip"):
				t.Errorf("%s: %s skips tests", c.name, path)
				missing++
			}
		}
		if missing == 0 && len(c.tests) > 0 {
			tested++
		}
	}
	fmt.Printf("figure: field-cases-tested %d\n", tested)
}
