// SPDX-License-Identifier: Apache-2.0

package behaviour

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
	"j5t.io/hsm/pkg/controller/projection"
	"j5t.io/hsm/test/framework/await"
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
	// outage has the time told until all is back in step.
	outage bool
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
	{name: "created", want: always(inStep), also: cell.metadataCurrent},
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
		act: cell.adopt, want: always(inStep), limit: 30 * time.Second, also: cell.metadataCurrent},
	{name: "foreign Secret appears, Secret gone", while: paused, act: func(c cell) { c.deleteSecret(); c.createForeign() },
		want: always("v1 foreign SecretExists SecretExists"), also: cell.untouched},

	{name: "HSMSecret deleted", act: cell.deleteHSMSecret, want: byPolicy("- - - -", "- v1 - -")},
	{name: "HSMSecret deleted without controller", while: paused, act: cell.deleteHSMSecret,
		meanwhile: byPolicy("- - - -", "- v1 - -"), want: byPolicy("- - - -", "- v1 - -")},
	{name: "HSMSecret deleted in the foreground", act: func(c cell) { c.deleteHSMSecretBy(metav1.DeletePropagationForeground) }, want: byPolicy("- - - -", "- v1 - -")},
	{name: "HSMSecret deleted, Secret orphaned", act: func(c cell) { c.deleteHSMSecretBy(metav1.DeletePropagationOrphan) }, want: always("- v1 - -"),
		also: cell.orphaned},
	{name: "HSMSecret deleted, policy turned round", act: func(c cell) { c.turnPolicyRound(); c.deleteHSMSecret() },
		want: byPolicy("- v1 - -", "- - - -")},
	{name: "HSMSecret deleted and made again", act: func(c cell) { c.deleteHSMSecret(); c.create() },
		want: always(inStep), limit: 30 * time.Second, also: cell.metadataCurrent},
	{name: "HSMSecret deleted, Secret edited, made again", while: paused, act: func(c cell) {
		c.deleteHSMSecret()
		if c.retain {
			c.editSecret()
		}
		c.create()
	},
		// What was retained, and holds other data, belongs to nobody.
		want: byPolicy(inStep, "v1 s2 SecretExists SecretExists"), limit: 30 * time.Second},
	{name: "renamed", act: func(c cell) { c.update(func(h *v1alpha1.HSMSecret) { h.Spec.SecretName = c.name + "-new" }) },
		want: always("v1 - InSync NoConflict"), also: func(c cell) { c.holds(c.name+"-new", "v1") }},
	{name: "made immutable", act: func(c cell) { c.update(func(h *v1alpha1.HSMSecret) { h.Immutable = new(true) }) },
		want: always(inStep), also: func(c cell) {
			c.await(time.Minute, func() error {
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
	{name: "labels and annotations removed", act: func(c cell) {
		c.patchSecret(`{"metadata":{"labels":{"` + projection.ManagedByLabel + `":null},"annotations":{"` + projection.ChecksumAnnotation + `":null}}}`)
	}, want: always(inStep), also: cell.metadataCurrent},

	// The statuses of all other objects are restored with theirs.
	{name: "token away", while: agentAway, want: always(inStep), meanwhile: always("? v1 ? ?"), limit: 60 * time.Second},
	{name: "token away, Secret edited", while: agentAway, act: cell.editSecret, meanwhile: always("? s2 ? ?"), outage: true, limit: time.Minute,
		want: byConfig("s2 s2 InSync NoConflict", inStep, "v1 s2"+leftAlone, "v1 s2"+leftAlone)},
	{name: "token away, Secret deleted", while: agentAway, act: cell.deleteSecret, meanwhile: always("? - ? ?"), outage: true, limit: time.Minute,
		want: byConfig(inStep, inStep, "v1 - SecretDeleted NoConflict", "v1 - SecretDeleted NoConflict")},
	{name: "API server away, Secret edited", while: apiServerAway, act: cell.editSecret, meanwhile: always("? s2 ? ?"), outage: true, limit: time.Minute,
		want: byConfig("s2 s2 InSync NoConflict", inStep, "v1 s2"+leftAlone, "v1 s2"+leftAlone)},
}

// TestTable runs every scenario with every configuration.
func TestTable(t *testing.T) {
	var cells atomic.Int32
	var backInStep time.Duration
	t.Run("undisturbed", func(t *testing.T) {
		for _, s := range scenarios {
			if s.while == nil {
				t.Run(s.name, func(t *testing.T) {
					t.Parallel()
					held, _ := s.run(t)
					cells.Add(held)
				})
			}
		}
	})
	for _, s := range scenarios {
		if s.while != nil {
			t.Run(s.name, func(t *testing.T) {
				held, took := s.run(t)
				cells.Add(held)
				if s.outage {
					backInStep = max(backInStep, took)
				}
			})
		}
	}
	if wanted := int32(len(scenarios) * len(configs())); cells.Load() != wanted {
		t.Errorf("%d cells hold, want %d", cells.Load(), wanted)
	}
	fmt.Printf("figure: behaviour-cells %d\n", cells.Load())
	fmt.Printf("figure: outage-back-in-step-ms %d\n", backInStep.Milliseconds())
}

// run returns how many cells hold, and how long it took in the end until they did.
func (s scenario) run(t *testing.T) (held int32, took time.Duration) {
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
		c.check("at first", time.Minute, s.projected)
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
			c.check("meanwhile", time.Minute, s.meanwhile(c.config))
		}
	}
	end()
	if s.limit == 0 {
		s.limit = 10 * time.Second
	}
	began := time.Now()
	deadline := began.Add(s.limit)
	for _, c := range all {
		c.check("in the end", time.Until(deadline), s.want(c.config))
		if s.also != nil {
			s.also(c)
		}
	}
	took = time.Since(began)
	if t.Failed() {
		return 0, took
	}
	return int32(len(all)), took
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
		await.NoError(t, 60*time.Second, func(context.Context) error {
			_, err := secrets.HsmV1alpha1().HSMSecrets("default").List(t.Context(), metav1.ListOptions{})
			return err
		})
	}
}
