// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/test/framework/faultfs"
	"j5t.io/hsm/test/framework/faulttoken"
)

// modelHistories is the variable that says how many histories TestModel makes.
const modelHistories = "MODEL_HISTORIES"

// model counts for the figures; they are printed at the end of the package's tests.
var model struct{ histories, violations atomic.Int64 }

// TestModel makes random histories of everything that agents do and that happens
// to tokens, and compares the store with a plain map all along.
func TestModel(t *testing.T) {
	t.Parallel()
	histories := 1000 // rapid makes a fifth of them with -short.
	if text := os.Getenv(modelHistories); text != "" {
		var err error
		if histories, err = strconv.Atoi(text); err != nil {
			t.Fatalf("%s: %v", modelHistories, err)
		}
	}
	for name, value := range map[string]string{"rapid.checks": fmt.Sprint(histories / len(faulttoken.Profiles)), "rapid.steps": "60", "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	eachProfile(t, func(t *testing.T, p faulttoken.Profile) {
		defer func() {
			if t.Failed() {
				model.violations.Add(1)
			}
		}()
		rapid.Check(t, func(t *rapid.T) {
			model.histories.Add(1)
			w := newWorld(t, p)
			defer w.end()
			t.Repeat(map[string]func(*rapid.T){
				"":             w.read,
				"create":       w.create,
				"update":       w.update,
				"update again": w.update,
				"delete":       w.delete,
				"group commit": w.group,
				"large":        w.large,
				"status":       w.status,
				"collect":      w.collect,
				"compact":      w.compact,
				"scrub":        w.scrub,
				"kill":         w.kill,
				"power cut":    w.powerCut,
				"failed call":  w.failedCall,
				"cut off":      w.cutOff,
				"disk stops":   w.diskStops,
				"damage":       w.damage,
				"remove":       w.remove,
				"move":         w.move,
				"clock":        w.turnClock,
			})
			w.settle()
		})
	})
}

func (w *world) size(t *rapid.T) int {
	return rapid.SampledFrom([]int{0, 10, 100, 600}).Draw(t, "size")
}

// key is one of few, so that histories are full of updates.
func (w *world) key(t *rapid.T) string {
	return fmt.Sprintf("ns/%d", rapid.IntRange(0, 30).Draw(t, "key"))
}

func (w *world) existing(t *rapid.T) string {
	if len(w.want) == 0 {
		t.Skip("no record")
	}
	keys := make([]string, 0, len(w.want))
	for key := range w.want {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return rapid.SampledFrom(keys).Draw(t, "key")
}

func (w *world) anyChange(t *rapid.T) token.Change {
	if len(w.want) > 0 && rapid.IntRange(0, 2).Draw(t, "kind") == 0 {
		return del(w.existing(t), 1)
	}
	return put(w.key(t), uint64(rapid.IntRange(1, 9).Draw(t, "content")), w.size(t))
}

func (w *world) create(t *rapid.T) { w.ordinary(put(w.key(t), 1, w.size(t))) }

func (w *world) update(t *rapid.T) { w.ordinary(put(w.existing(t), 2, w.size(t))) }

func (w *world) delete(t *rapid.T) { w.ordinary(del(w.existing(t), 1)) }

func (w *world) large(t *rapid.T) {
	w.ordinary(put(w.key(t), 3, rapid.IntRange(800, 4000).Draw(t, "size")))
}

func (w *world) group(t *rapid.T) {
	var changes []token.Change
	for range rapid.IntRange(2, 5).Draw(t, "changes") {
		changes = append(changes, w.anyChange(t))
	}
	w.ordinary(changes...)
}

// status gives a revision that the token never sees.
func (w *world) status(*rapid.T) {
	revision := w.next()
	w.must(w.store.Reserve(revision, 50))
	w.seen(revision)
}

func (w *world) collect(*rapid.T) {
	_, err := w.store.CollectGarbage()
	w.must(err)
}

func (w *world) compactStep() (bool, error) {
	more, err := w.store.Compact(w.next)
	if err == nil {
		w.seen(w.store.Head())
	}
	return more, err
}

func (w *world) compact(t *rapid.T) {
	for range rapid.IntRange(1, 12).Draw(t, "steps") {
		more, err := w.compactStep()
		w.must(err)
		if !more {
			return
		}
	}
}

// read reads one record, or finds that there is none to be read.
func (w *world) read(t *rapid.T) {
	w.must(w.store.CheckInvariants())
	key := w.key(t)
	record, ok := w.want[key]
	if !ok {
		if _, err := w.store.Data(key); err == nil {
			t.Fatalf("record %q was read, which does not exist", key)
		}
		return
	}
	if data, err := w.store.Data(key); err != nil || string(data) != string(record.Data) {
		t.Fatalf("record %q was read as %d bytes, %v", key, len(data), err)
	}
}

func (w *world) scrub(*rapid.T) {
	session, err := w.token.Open()
	w.must(err)
	_, err = w.store.Scrub(session)
	w.must(err)
	w.compare()
}

// kill is kill -9: what was written stays.
func (w *world) kill(*rapid.T) { w.reopen() }

// forgets draws what a power cut undoes. Creates that are lost without a log
// are lost for good.
func (w *world) forgets(t *rapid.T) {
	f := faulttoken.Forgets{Destroys: rapid.IntRange(0, 3).Draw(t, "destroys"), Broken: rapid.Bool().Draw(t, "broken")}
	if w.at.dir != "" {
		f.Creates = rapid.IntRange(0, 3).Draw(t, "creates")
	}
	w.token.Forget(f)
}

// powerCut takes the token down, or the machine.
func (w *world) powerCut(t *rapid.T) {
	w.forgets(t)
	w.token.PowerCut()
	if rapid.Bool().Draw(t, "machine") {
		w.disk.Stop()
	}
	w.reopen()
}

var failures = []uint{
	pkcs11.CKRGeneralError, pkcs11.CKRDeviceError, pkcs11.CKRDeviceRemoved, pkcs11.CKRUserNotLoggedIn,
	pkcs11.CKRFunctionFailed, pkcs11.CKRDeviceMemory, pkcs11.CKRDataLenRange,
}

// failedCall lets one of the creates of a commit fail, done or not.
func (w *world) failedCall(t *rapid.T) {
	w.disk.whole = false
	before := w.token.Counters().Calls[faulttoken.Create]
	for range rapid.IntRange(0, 2).Draw(t, "calls before") {
		w.token.Fail(faulttoken.Create, faulttoken.Fault{})
	}
	f := faulttoken.Fault{Code: rapid.SampledFrom(failures).Draw(t, "code"), Done: rapid.Bool().Draw(t, "done")}
	if class := pkcs11.ClassOf(&pkcs11.Error{Code: f.Code}); w.at.dir == "" && (class == pkcs11.ClassFull || class == pkcs11.ClassTooLarge) {
		f.Done = false // Only a log, or the next commit, can keep down what was refused and hidden.
	}
	w.token.Fail(faulttoken.Create, f)
	change := put(w.key(t), 4, rapid.SampledFrom([]int{10, 2000}).Draw(t, "size"))
	err := w.commit([]token.Change{change})
	if reason := token.ReasonOf(err); err == nil || (reason == token.Full || reason == token.TooLarge) && w.token.Counters().Calls[faulttoken.Create] > before {
		w.compare()
	}
	w.token.Mend()
	w.reopen()
}

// cutOff takes the power at some step of a commit, or of compaction.
func (w *world) cutOff(t *rapid.T) {
	w.forgets(t)
	w.disk.whole = rapid.Bool().Draw(t, "machine")
	w.token.CutAt(rapid.IntRange(1, 9).Draw(t, "step"), rapid.Bool().Draw(t, "after"))
	w.busy(t)
	w.reopen()
}

// diskStops takes the power at some call of the file system.
func (w *world) diskStops(t *rapid.T) {
	w.forgets(t)
	w.disk.StopAt(rapid.IntRange(1, 4).Draw(t, "call"), rapid.SampledFrom([]faultfs.Moment{faultfs.Before, faultfs.Halfway, faultfs.After}).Draw(t, "moment"))
	w.busy(t)
	w.reopen()
}

// busy writes until something fails, but not for long.
func (w *world) busy(t *rapid.T) {
	for range 4 {
		if err := w.commit([]token.Change{put(w.key(t), 5, w.size(t)), w.anyChange(t)}); err != nil && token.ReasonOf(err) != token.Full {
			return
		}
		for range 3 {
			if _, err := w.compactStep(); err != nil {
				return
			}
		}
	}
}

// damage damages an object, which the log makes good.
func (w *world) damage(t *rapid.T) {
	if w.at.dir == "" {
		t.Skip("no log")
	}
	labels := map[string]bool{}
	for _, o := range w.token.Flash() {
		labels[o.Label] = true
	}
	for range rapid.IntRange(1, 3).Draw(t, "objects") {
		label := rapid.SampledFrom(slices.Sorted(maps.Keys(labels))).Draw(t, "object")
		w.token.Change(label, damaged[rapid.SampledFrom(kindsOfDamage).Draw(t, "damage")])
	}
	if rapid.Bool().Draw(t, "scrub") {
		w.scrub(t)
	} else {
		w.kill(t)
	}
}

var kindsOfDamage = []string{"lost", "half destroyed", "flipped", "cut", "emptied", "zeroed"}

// remove pulls the token, and puts it back.
func (w *world) remove(t *rapid.T) {
	w.token.Remove()
	err := w.commit([]token.Change{w.anyChange(t)})
	var ofToken *pkcs11.Error
	if err == nil || token.ReasonOf(err) != token.Full && !errors.As(err, &ofToken) {
		t.Fatalf("a commit without a token gave %v", err)
	}
	w.reopen()
}

// move takes the token to another host, after it was put aside in good order.
func (w *world) move(t *rapid.T) {
	w.token.Forget(faulttoken.Forgets{})
	w.token.PowerCut()
	w.disk.Stop()
	w.at = rapid.SampledFrom(w.hosts).Draw(t, "host")
	w.reopen()
}

// turnClock moves time, also back.
func (w *world) turnClock(t *rapid.T) {
	w.clock += uint64(rapid.IntRange(0, 10_000).Draw(t, "forth"))
	w.clock -= uint64(rapid.IntRange(0, 10_000).Draw(t, "back"))
}
