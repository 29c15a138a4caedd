// SPDX-License-Identifier: Apache-2.0

package behaviour

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/projection"
)

// The data that the table speaks of.
var states = map[string]map[string][]byte{
	"v1":      {"password": []byte("v1"), "extra": []byte("x")},                                // As created.
	"t2":      {"password": []byte("t2"), "other": []byte("y")},                                // The token, changed.
	"s2":      {"password": []byte("s2"), "more": []byte("z")},                                 // The Secret, edited.
	"foreign": {"password": []byte("foreign"), "theirs": []byte("keep"), "extra": []byte("x")}, // Of somebody else.
}

// config is how an HSMSecret is to be projected.
type config struct {
	auto, both, retain bool
}

func configs() []config {
	var all []config
	for bits := range 8 {
		all = append(all, config{auto: bits&1 == 0, both: bits&2 == 0, retain: bits&4 != 0})
	}
	return all
}

func (c config) String() string {
	word := func(is bool, yes, no string) string {
		if is {
			return yes
		}
		return no
	}
	return word(c.auto, "auto", "manual") + "-" + word(c.both, "both", "oneway") + "-" + word(c.retain, "retain", "delete")
}

// want is what is to be in the end: "TOKEN SECRET SYNCED CONFLICT", each a state of the
// data or a reason of the condition; "-" is none.
type want string

// byConfig gives what is wanted for autoSync and syncDirection.
func byConfig(autoBoth, autoOneWay, manualBoth, manualOneWay want) func(config) want {
	return func(c config) want {
		switch {
		case c.auto && c.both:
			return autoBoth
		case c.auto:
			return autoOneWay
		case c.both:
			return manualBoth
		}
		return manualOneWay
	}
}

func always(w want) func(config) want { return byConfig(w, w, w, w) }

func byPolicy(whenDeleted, whenRetained want) func(config) want {
	return func(c config) want {
		if c.retain {
			return whenRetained
		}
		return whenDeleted
	}
}

// cell is one scenario with one configuration.
type cell struct {
	*testing.T
	config
	namespace, name string
}

// scenario is a row of the table.
type scenario struct {
	name string
	// before acts before the HSMSecret is created; then projected is what is
	// waited for.
	before    func(cell)
	projected want
	// act is what happens, all at once for all configurations.
	act func(cell)
	// while puts the cluster into a state, in which act happens. It returns how to
	// end it; then what is wanted has to be there within limit.
	while func(*testing.T) (end func())
	limit time.Duration
	// meanwhile is what there has to be before the end.
	meanwhile func(config) want
	want      func(config) want
	// also is checked in the end.
	also func(cell)
}

const (
	inStep    = want("v1 v1 InSync NoConflict")
	leftAlone = " AutoSyncOff NoConflict"
)

var scenarios = []scenario{
	{name: "created", want: always(inStep), also: cell.dressedRight},
	{name: "token changed", act: cell.changeToken,
		want: byConfig("t2 t2 InSync NoConflict", "t2 t2 InSync NoConflict", "t2 v1"+leftAlone, "t2 v1"+leftAlone)},
	{name: "Secret edited", act: cell.editSecret,
		want: byConfig("s2 s2 InSync NoConflict", inStep, "v1 s2"+leftAlone, "v1 s2"+leftAlone)},
	{name: "Secret deleted", act: cell.deleteSecret,
		want: byConfig(inStep, inStep, "v1 - SecretDeleted NoConflict", "v1 - SecretDeleted NoConflict")},
	{name: "Secret deleted, asked", act: func(c cell) { c.deleteSecret(); c.awaitReason(c.auto, "InSync", "SecretDeleted"); c.ask() }, want: always(inStep)},
	{name: "token changed, asked", act: func(c cell) { c.changeToken(); c.ask() }, want: always("t2 t2 InSync NoConflict")},
	{name: "Secret edited, asked", act: func(c cell) { c.editSecret(); c.ask() },
		want: byConfig("s2 s2 InSync NoConflict", inStep, "s2 s2 InSync NoConflict", inStep)},
	{name: "both changed", while: paused, act: func(c cell) { c.changeToken(); c.editSecret() },
		want: byConfig("t2 t2 InSync BothChanged", "t2 t2 InSync NoConflict", "t2 s2"+leftAlone, "t2 s2"+leftAlone),
		also: cell.lossTold},
	{name: "both changed alike", while: paused, act: func(c cell) { c.changeToken(); c.edit(states["t2"]) }, want: always("t2 t2 InSync NoConflict")},
	{name: "token changed, Secret deleted", while: paused, act: func(c cell) { c.changeToken(); c.deleteSecret() },
		want: byConfig("t2 t2 InSync NoConflict", "t2 t2 InSync NoConflict", "t2 - SecretDeleted NoConflict", "t2 - SecretDeleted NoConflict")},

	{name: "foreign Secret", before: cell.createForeign, projected: "v1 foreign SecretExists SecretExists",
		act: func(c cell) { c.changeToken() }, want: always("t2 foreign SecretExists SecretExists"), also: cell.untouched},
	{name: "foreign Secret, HSMSecret deleted", before: cell.createForeign, projected: "v1 foreign SecretExists SecretExists",
		act: cell.deleteHSMSecret, want: always("- foreign - -"), also: cell.untouched},
	{name: "foreign Secret, deleted", before: cell.createForeign, projected: "v1 foreign SecretExists SecretExists",
		act: cell.deleteSecret, want: always(inStep), limit: 30 * time.Second},
	{name: "foreign Secret, adopted", before: cell.createForeign, projected: "v1 foreign SecretExists SecretExists",
		act: cell.adopt, want: always(inStep), limit: 30 * time.Second, also: cell.adoptionOver},
	{name: "foreign Secret of another type, adopted", before: cell.createForeignTLS, projected: "v1 foreign SecretExists SecretExists",
		act: cell.adopt, want: always(inStep), limit: 30 * time.Second, also: cell.dressedRight},
	{name: "foreign Secret appears, Secret gone", while: paused, act: func(c cell) { c.deleteSecret(); c.createForeign() },
		want: always("v1 foreign SecretExists SecretExists"), also: cell.untouched},

	{name: "HSMSecret deleted", act: cell.deleteHSMSecret, want: byPolicy("- - - -", "- v1 - -")},
	{name: "HSMSecret deleted without controller", while: paused, act: cell.deleteHSMSecret,
		meanwhile: byPolicy("- - - -", "- v1 - -"), want: byPolicy("- - - -", "- v1 - -")},
	{name: "HSMSecret deleted, policy turned round", act: func(c cell) { c.turnPolicyRound(); c.deleteHSMSecret() },
		want: byPolicy("- v1 - -", "- - - -")},
	{name: "HSMSecret deleted and made again", act: func(c cell) { c.deleteHSMSecret(); c.create() },
		// One that was to be retained belongs to nobody.
		want: byPolicy(inStep, "v1 v1 SecretExists SecretExists"), limit: 30 * time.Second},
	{name: "renamed", act: func(c cell) { c.update(func(h *v1alpha1.HSMSecret) { h.Spec.SecretName = c.name + "-new" }) },
		want: always("v1 - InSync NoConflict"), also: func(c cell) { c.holds(c.name+"-new", "v1") }},
	{name: "made immutable", act: func(c cell) { c.update(func(h *v1alpha1.HSMSecret) { h.Immutable = new(true) }) },
		want: always(inStep), also: func(c cell) {
			c.await(10*time.Second, func() error {
				if secret := c.secret(c.name); secret == nil || secret.Immutable == nil || !*secret.Immutable {
					return fmt.Errorf("the Secret is not immutable: %v", secret)
				}
				return nil
			})
		}},
	{name: "Secret made immutable, token changed", while: paused, act: func(c cell) {
		c.patchSecret(`{"immutable":true}`)
		c.changeToken()
	}, want: byConfig("t2 t2 InSync NoConflict", "t2 t2 InSync NoConflict", "t2 v1"+leftAlone, "t2 v1"+leftAlone)},
	{name: "Secret undressed", act: func(c cell) {
		c.patchSecret(`{"metadata":{"labels":{"` + projection.ManagedByLabel + `":null},"annotations":{"` + projection.ChecksumAnnotation + `":null}}}`)
	}, want: always(inStep), also: cell.dressedRight},

	{name: "token away", while: agentAway, want: always(inStep), meanwhile: always("? v1 ? ?")},
	{name: "token away, Secret edited", while: agentAway, act: cell.editSecret, meanwhile: always("? s2 ? ?"), limit: 5 * time.Second,
		want: byConfig("s2 s2 InSync NoConflict", inStep, "v1 s2"+leftAlone, "v1 s2"+leftAlone)},
	{name: "token away, Secret deleted", while: agentAway, act: cell.deleteSecret, meanwhile: always("? - ? ?"), limit: 5 * time.Second,
		want: byConfig(inStep, inStep, "v1 - SecretDeleted NoConflict", "v1 - SecretDeleted NoConflict")},
	{name: "API server away, Secret edited", while: apiServerAway, act: cell.editSecret, meanwhile: always("? s2 ? ?"), limit: 5 * time.Second,
		want: byConfig("s2 s2 InSync NoConflict", inStep, "v1 s2"+leftAlone, "v1 s2"+leftAlone)},
}

// TestTable runs every scenario with every configuration.
func TestTable(t *testing.T) {
	var cells atomic.Int32
	t.Run("undisturbed", func(t *testing.T) {
		for _, s := range scenarios {
			if s.while == nil {
				t.Run(s.name, func(t *testing.T) {
					t.Parallel()
					cells.Add(s.run(t))
				})
			}
		}
	})
	for _, s := range scenarios {
		if s.while != nil {
			t.Run(s.name, func(t *testing.T) { cells.Add(s.run(t)) })
		}
	}
	if wanted := int32(len(scenarios) * len(configs())); cells.Load() != wanted {
		t.Errorf("%d cells hold, want %d", cells.Load(), wanted)
	}
	fmt.Printf("figure: behaviour-cells %d\n", cells.Load())
}

// run returns how many cells hold.
func (s scenario) run(t *testing.T) int32 {
	namespace := newNamespace(t)
	var all []cell
	for _, config := range configs() {
		c := cell{t, config, namespace, config.String()}
		if s.before != nil {
			s.before(c)
		}
		c.create()
		all = append(all, c)
	}
	if s.projected == "" {
		s.projected = inStep
	}
	for _, c := range all {
		c.check("at first", 20*time.Second, s.projected)
	}
	end := func() {}
	if s.while != nil {
		end = s.while(t)
	}
	if s.act != nil {
		for _, c := range all {
			s.act(c)
		}
	}
	if s.meanwhile != nil {
		for _, c := range all {
			c.check("meanwhile", 10*time.Second, s.meanwhile(c.config))
		}
	}
	end()
	if s.limit == 0 {
		s.limit = 10 * time.Second
	}
	deadline := time.Now().Add(s.limit)
	for _, c := range all {
		c.check("in the end", time.Until(deadline), s.want(c.config))
		if s.also != nil {
			s.also(c)
		}
	}
	if t.Failed() {
		return 0
	}
	return int32(len(all))
}

// paused stops the controller, as a machine that hangs does.
func paused(t *testing.T) func() {
	if err := projector.Pause(); err != nil {
		t.Fatal(err)
	}
	resume := func() { _ = projector.Resume() }
	t.Cleanup(resume)
	return resume
}

// agentAway kills the agent.
func agentAway(t *testing.T) func() {
	hsm.Agent.Kill()
	return func() {
		if err := hsm.StartAgent(context.WithoutCancel(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
}

func apiServerAway(t *testing.T) func() {
	hsm.APIServer.Kill()
	return func() {
		if err := hsm.StartAPIServer(context.WithoutCancel(t.Context())); err != nil {
			t.Fatal(err)
		}
		// kube-apiserver notices after a while that it is back.
		eventually(t, 60*time.Second, func() error {
			_, err := secrets.HsmV1alpha1().HSMSecrets("default").List(t.Context(), metav1.ListOptions{})
			return err
		})
	}
}

func (c cell) create() {
	c.Helper()
	h := &v1alpha1.HSMSecret{
		ObjectMeta: metav1.ObjectMeta{Name: c.name},
		Spec: v1alpha1.HSMSecretSpec{
			AutoSync:       &c.auto,
			SyncDirection:  v1alpha1.SyncDirectionHSMToSecret,
			DeletionPolicy: v1alpha1.DeletionPolicyDelete,
		},
		Data: states["v1"],
	}
	if c.both {
		h.Spec.SyncDirection = v1alpha1.SyncDirectionBidirectional
	}
	if c.retain {
		h.Spec.DeletionPolicy = v1alpha1.DeletionPolicyRetain
	}
	if _, err := secrets.HsmV1alpha1().HSMSecrets(c.namespace).Create(c.Context(), h, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
}

// update changes the HSMSecret as a user does.
func (c cell) update(change func(*v1alpha1.HSMSecret)) {
	c.Helper()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		h, err := secrets.HsmV1alpha1().HSMSecrets(c.namespace).Get(c.Context(), c.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(h)
		_, err = secrets.HsmV1alpha1().HSMSecrets(c.namespace).Update(c.Context(), h, metav1.UpdateOptions{FieldManager: "user"})
		return err
	})
	if err != nil {
		c.Fatal(err)
	}
}

func (c cell) changeToken() { c.update(func(h *v1alpha1.HSMSecret) { h.Data = states["t2"] }) }

func (c cell) ask() {
	c.update(func(h *v1alpha1.HSMSecret) {
		h.Annotations = map[string]string{projection.SyncAnnotation: fmt.Sprint(time.Now().UnixNano())}
	})
}

func (c cell) turnPolicyRound() {
	c.update(func(h *v1alpha1.HSMSecret) {
		if c.retain {
			h.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete
		} else {
			h.Spec.DeletionPolicy = v1alpha1.DeletionPolicyRetain
		}
	})
	c.await(10*time.Second, func() error {
		if owned := len(c.secret(c.name).OwnerReferences) > 0; owned != c.retain {
			return fmt.Errorf("the Secret has an owner: %t", owned)
		}
		return nil
	})
}

func (c cell) deleteHSMSecret() {
	c.Helper()
	if err := secrets.HsmV1alpha1().HSMSecrets(c.namespace).Delete(c.Context(), c.name, metav1.DeleteOptions{}); err != nil {
		c.Fatal(err)
	}
}

func (c cell) editSecret() { c.edit(states["s2"]) }

func (c cell) edit(data map[string][]byte) {
	c.Helper()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		secret, err := core.CoreV1().Secrets(c.namespace).Get(c.Context(), c.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		secret.Data = data
		_, err = core.CoreV1().Secrets(c.namespace).Update(c.Context(), secret, metav1.UpdateOptions{FieldManager: "user"})
		return err
	})
	if err != nil {
		c.Fatal(err)
	}
}

func (c cell) patchSecret(patch string) {
	c.Helper()
	if _, err := core.CoreV1().Secrets(c.namespace).Patch(c.Context(), c.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		c.Fatal(err)
	}
}

func (c cell) deleteSecret() {
	c.Helper()
	if err := core.CoreV1().Secrets(c.namespace).Delete(c.Context(), c.name, metav1.DeleteOptions{}); err != nil {
		c.Fatal(err)
	}
}

func (c cell) createForeign() { c.createOther(corev1.SecretTypeOpaque) }

func (c cell) createForeignTLS() { c.createOther("example.com/other") }

func (c cell) createOther(secretType corev1.SecretType) {
	c.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: c.name, Labels: map[string]string{"app": "theirs"}}, Data: states["foreign"], Type: secretType}
	if _, err := core.CoreV1().Secrets(c.namespace).Create(c.Context(), secret, metav1.CreateOptions{FieldManager: "user"}); err != nil {
		c.Fatal(err)
	}
}

func (c cell) adopt() {
	c.patchSecret(`{"metadata":{"annotations":{"` + projection.AdoptAnnotation + `":"true"}}}`)
}

// secret is nil if there is none.
func (c cell) secret(name string) *corev1.Secret {
	c.Helper()
	secret, err := core.CoreV1().Secrets(c.namespace).Get(c.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		c.Fatal(err)
	}
	return secret
}

// check waits until what is wanted is there.
func (c cell) check(when string, limit time.Duration, w want) {
	c.Helper()
	c.await(limit, func() error {
		got := c.state(w)
		if got != w {
			return fmt.Errorf("%s %s: got %q, want %q", c.name, when, got, w)
		}
		return nil
	})
}

func (c cell) await(limit time.Duration, condition func() error) {
	c.Helper()
	eventually(c.T, limit, condition)
}

// state sums up what there is; where a "?" is wanted, nobody looks.
func (c cell) state(w want) want {
	c.Helper()
	got := []string{"-", "-", "-", "-"}
	wanted := strings.Fields(string(w))
	if secret := c.secret(c.name); secret != nil {
		got[1] = stateOf(secret.Data)
	}
	if wanted[0] == "?" {
		got[0], got[2], got[3] = "?", "?", "?"
		return want(strings.Join(got, " "))
	}
	h, err := secrets.HsmV1alpha1().HSMSecrets(c.namespace).Get(c.Context(), c.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		got[0] = err.Error()
	default:
		got[0] = stateOf(h.Data)
		for i, conditionType := range []string{v1alpha1.HSMSecretSynced, v1alpha1.HSMSecretConflict} {
			if condition := meta.FindStatusCondition(h.Status.Conditions, conditionType); condition != nil {
				got[2+i] = condition.Reason
			}
		}
		if h.Status.ObservedGeneration != h.Generation {
			got[2] += "(not yet)"
		}
	}
	return want(strings.Join(got, " "))
}

func stateOf(data map[string][]byte) string {
	for name, state := range states {
		if equality.Semantic.DeepEqual(state, data) {
			return name
		}
	}
	return fmt.Sprintf("%q", data)
}

func (c cell) awaitReason(is bool, yes, no string) {
	c.Helper()
	reason := no
	if is {
		reason = yes
	}
	c.await(10*time.Second, func() error {
		h, err := secrets.HsmV1alpha1().HSMSecrets(c.namespace).Get(c.Context(), c.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if synced := meta.FindStatusCondition(h.Status.Conditions, v1alpha1.HSMSecretSynced); synced == nil || synced.Reason != reason {
			return fmt.Errorf("%s: %+v", c.name, synced)
		}
		return nil
	})
}

// holds waits until a Secret has data.
func (c cell) holds(name, state string) {
	c.Helper()
	c.await(10*time.Second, func() error {
		if secret := c.secret(name); secret == nil || stateOf(secret.Data) != state {
			return fmt.Errorf("Secret %s is %v, want %s", name, secret, state)
		}
		return nil
	})
}

// dressedRight waits until all that the Secret is besides its data is right.
func (c cell) dressedRight() {
	c.Helper()
	c.await(10*time.Second, c.undressed)
}

// undressed says what is not right.
func (c cell) undressed() error {
	h, err := secrets.HsmV1alpha1().HSMSecrets(c.namespace).Get(c.Context(), c.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	secret := c.secret(c.name)
	for label, value := range map[string]string{"app.kubernetes.io/managed-by": "hsm-controller", "managed-by": "hsm-secrets-operator"} {
		if secret.Labels[label] != value {
			return fmt.Errorf("%s: label %s is %q, want %q", c.name, label, secret.Labels[label], value)
		}
	}
	for annotation, value := range map[string]string{
		projection.SourceUIDAnnotation: string(h.UID),
		projection.RevisionAnnotation:  h.Status.DataVersion,
		projection.ChecksumAnnotation:  h.Status.HSMChecksum,
	} {
		if secret.Annotations[annotation] != value {
			return fmt.Errorf("%s: annotation %s is %q, want %q", c.name, annotation, secret.Annotations[annotation], value)
		}
	}
	owner := metav1.GetControllerOf(secret)
	if c.retain != (owner == nil) || owner != nil && owner.UID != h.UID {
		return fmt.Errorf("%s: the owner is %v", c.name, owner)
	}
	if secret.Type != corev1.SecretTypeOpaque {
		return fmt.Errorf("%s: type %s", c.name, secret.Type)
	}
	if ref := h.Status.SecretRef; ref == nil || ref.Name != secret.Name || ref.UID != secret.UID {
		return fmt.Errorf("%s: secretRef is %v", c.name, ref)
	}
	if h.Status.SyncStatus != v1alpha1.SyncStatusInSync || h.Status.SecretChecksum != h.Status.HSMChecksum || h.Status.LastError != "" || h.Status.LastSyncTime == nil {
		return fmt.Errorf("%s: status %+v", c.name, h.Status)
	}
	return nil
}

// untouched checks that the foreign Secret is as it was made, but for the
// annotation to adopt.
func (c cell) untouched() {
	c.Helper()
	secret := c.secret(c.name)
	if len(secret.ManagedFields) != 1 || secret.ManagedFields[0].Manager != "user" || len(secret.Labels) != 1 || len(secret.OwnerReferences) > 0 || len(secret.Annotations) > 0 {
		c.Errorf("%s: the Secret of somebody else was touched: %+v", c.name, secret.ObjectMeta)
	}
}

func (c cell) adoptionOver() {
	c.Helper()
	c.dressedRight()
	secret := c.secret(c.name)
	if _, still := secret.Annotations[projection.AdoptAnnotation]; still {
		c.Errorf("%s: the leave to adopt is still there", c.name)
	}
	if secret.Labels["app"] != "theirs" {
		c.Errorf("%s: labels of others are gone: %v", c.name, secret.Labels)
	}
}

// lossTold checks that the lost edit is told, and no value with it.
func (c cell) lossTold() {
	c.Helper()
	if !c.auto || !c.both {
		return
	}
	h, err := secrets.HsmV1alpha1().HSMSecrets(c.namespace).Get(c.Context(), c.name, metav1.GetOptions{})
	if err != nil {
		c.Fatal(err)
	}
	told := []string{meta.FindStatusCondition(h.Status.Conditions, v1alpha1.HSMSecretConflict).Message}
	c.await(10*time.Second, func() error {
		events, err := core.CoreV1().Events(c.namespace).List(c.Context(), metav1.ListOptions{FieldSelector: "reason=Conflict"})
		if err != nil {
			return err
		}
		kinds := map[string]bool{}
		for _, event := range events.Items {
			if event.InvolvedObject.Name == c.name {
				kinds[event.InvolvedObject.Kind] = true
				told = append(told, event.Message)
			}
		}
		if !kinds["HSMSecret"] || !kinds["Secret"] {
			return fmt.Errorf("%s: no events of the loss: %v", c.name, kinds)
		}
		return nil
	})
	for _, message := range told {
		if !strings.Contains(message, "by user") || strings.Contains(message, "s2") {
			c.Errorf("%s: the loss is told as %q", c.name, message)
		}
	}
}
