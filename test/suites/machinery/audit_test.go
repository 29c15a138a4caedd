// SPDX-License-Identifier: Apache-2.0

package machinery

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/generated/clientset/versioned"
	"j5t.io/hsm/test/framework/await"
)

// TestAudit follows a read and a write by their audit id from kube-apiserver
// through our server to the agent, with the user; no log holds a value. A body
// that the policy lets pass is there, so the search would find one.
func TestAudit(t *testing.T) {
	const canary, control = "canary-audit-4d21c", "control-audit-20aa"
	ns := namespace(t)
	config := *hsm.Admin
	config.Impersonate.UserName, config.Impersonate.Groups = "audit-alice", []string{"system:masters"}
	client := secrets(t, &config, ns)
	_, err := client.Create(t.Context(), secret("db", canary), metav1.CreateOptions{})
	must(t, err)
	_, err = client.Get(t.Context(), "db", metav1.GetOptions{})
	must(t, err)
	_, err = client.Patch(t.Context(), "db", types.MergePatchType, []byte(`{"stringData": {"password": "`+canary+`-2"}}`), metav1.PatchOptions{})
	must(t, err)
	_, err = client.Patch(t.Context(), "db", types.MergePatchType, []byte(`{"status": {"syncStatus": "InSync"}}`), metav1.PatchOptions{}, "status")
	must(t, err)
	all, err := versioned.NewForConfig(hsm.Admin)
	must(t, err)
	_, err = all.HsmV1alpha1().HSMDevices(ns).Create(t.Context(), &v1alpha1.HSMDevice{
		ObjectMeta: metav1.ObjectMeta{Name: "device"},
		Spec: v1alpha1.HSMDeviceSpec{
			DeviceType: v1alpha1.DeviceTypePicoHSM,
			Discovery:  &v1alpha1.Discovery{AutoDiscovery: true},
			PKCS11:     &v1alpha1.PKCS11{LibraryPath: "/usr/lib/" + control + ".so", PINSecret: &v1alpha1.PINSecretReference{Name: "pin", Key: "pin"}},
		},
	}, metav1.CreateOptions{})
	must(t, err)

	agentLog := readFile(t, filepath.Join(hsm.LogDir(), "agent.log"))
	for verb, act := range map[string]string{"get": "Value read", "create": "Value written", "patch": "Value written"} {
		atKube, atOurs := event(t, hsm.AuditLog, ns, verb), event(t, ourAuditLog, ns, verb)
		if atKube.AuditID != atOurs.AuditID {
			t.Errorf("%s: audit ids %s and %s differ", verb, atKube.AuditID, atOurs.AuditID)
		}
		if atOurs.User.Username != "audit-alice" || atKube.ImpersonatedUser.Username != "audit-alice" {
			t.Errorf("%s: done by %v at our server, by %v at kube-apiserver", verb, atOurs.User, atKube.ImpersonatedUser)
		}
		if len(linesWith(agentLog, act, string(atOurs.AuditID), `user="audit-alice"`, ns+"/db")) == 0 {
			t.Errorf("%s: the agent has no line %q of %s with the audit id %s", verb, act, ns, atOurs.AuditID)
		}
	}

	for _, log := range []string{hsm.AuditLog, ourAuditLog} {
		content := string(readFile(t, log))
		// As it is in stringData, and as it is in data.
		for _, form := range []string{canary, base64.StdEncoding.EncodeToString([]byte(canary))} {
			if strings.Contains(content, form) {
				t.Errorf("a value of a secret is in %s", log)
			}
		}
	}
	if !strings.Contains(string(readFile(t, ourAuditLog)), control) {
		t.Error("the body of an HSMDevice is in no log: the search for values proves nothing")
	}
}

// event is the last one of db in an audit log.
func event(t *testing.T, log, namespace, verb string) auditv1.Event {
	t.Helper()
	var found auditv1.Event
	await.NoError(t, 10*time.Second, func(context.Context) error {
		for _, line := range linesWith(readFile(t, log), `"verb":"`+verb+`"`, `"resource":"hsmsecrets","namespace":"`+namespace+`"`) {
			var event auditv1.Event
			if err := json.Unmarshal([]byte(line), &event); err != nil {
				return err
			}
			if event.ObjectRef.Subresource == "" {
				found = event
			}
		}
		if found.AuditID == "" {
			return fmt.Errorf("%s has no %s", log, verb)
		}
		return nil
	})
	return found
}
