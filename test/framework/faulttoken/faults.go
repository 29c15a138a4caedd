// SPDX-License-Identifier: Apache-2.0

package faulttoken

import "math/rand/v2"

// Fault is what a call does instead of working.
type Fault struct {
	Code uint // CKR_*; 0 lets the call work
	// Done: the effect is there all the same.
	Done bool
}

// Fail lets the next call of a function fail; several are used up in turn.
func (t *Token) Fail(function string, f Fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.faults[function] = append(t.faults[function], f)
}

// Mend takes back all faults and events that have not come yet.
func (t *Token) Mend() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.faults)
	t.events = nil
}

func (t *Token) fault(function string) (Fault, bool) {
	queue := t.faults[function]
	if len(queue) == 0 {
		return Fault{}, false
	}
	t.faults[function] = queue[1:]
	return queue[0], queue[0].Code != 0
}

// Event is what happens to a token from outside: a method of Token, as (*Token).Remove or
// (*Token).LoseLogin, or whatever a test wants to happen together.
type Event func(*Token)

// event waits for its time.
type event struct {
	Event
	function string            // That it comes at; empty: any.
	call     int               // It comes before this one of them.
	step     int               // Or at this step of any,
	after    bool              // after its effect.
	every    func() (due bool) // Or whenever this says so, before a call,
	inside   bool              // and inside one.
}

// AtCall lets an event happen before call number n of a function from now on; an empty
// function is any.
func (t *Token) AtCall(function string, n int, e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, event{Event: e, function: function, call: n})
}

// AtStep lets an event happen at a step: before its effect, or after it but before the
// answer. Each effect on the token is a step, and Steps counts them.
func (t *Token) AtStep(n int, after bool, e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, event{Event: e, step: t.steps + n, after: after})
}

// Mishaps are events at random.
type Mishaps struct {
	Random *rand.Rand
	Calls  int  // One comes about once in so many calls, before one,
	Inside bool // and as often inside one.
	Events []Event
}

// Mishaps begins with events at random, and goes on until Mend.
func (t *Token) Mishaps(m Mishaps) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, event{
		Event:  func(t *Token) { m.Events[m.Random.IntN(len(m.Events))](t) },
		every:  func() bool { return m.Random.IntN(m.Calls) == 0 },
		inside: m.Inside,
	})
}

// Calls counts the calls of the token's life, also what was answered from memory.
func (t *Token) Calls() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.calls
}

// Steps counts the steps since CutAt, or since the beginning.
func (t *Token) Steps() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.steps
}

// beforeCall lets happen what is due before a call.
func (t *Token) beforeCall(function string) {
	t.calls++
	for i := 0; i < len(t.events); i++ {
		e := &t.events[i]
		switch {
		case e.every != nil:
			if e.every() {
				t.happen(e.Event)
			}
		case e.call > 0 && (e.function == "" || e.function == function):
			if e.call--; e.call == 0 {
				due := e.Event
				t.events = append(t.events[:i:i], t.events[i+1:]...)
				i--
				t.happen(due)
			}
		}
	}
}

// atStep lets happen what is due at the running step.
func (t *Token) atStep(after bool) {
	for i, e := range t.events {
		if e.inside && !after && e.every() {
			t.happen(e.Event)
			return
		}
		if e.step > 0 && e.step == t.steps && e.after == after {
			t.events = append(t.events[:i:i], t.events[i+1:]...)
			t.happen(e.Event)
			return
		}
	}
}

// happen lets an event use the token as any other goroutine does.
func (t *Token) happen(e Event) {
	t.mu.Unlock()
	defer t.mu.Lock()
	e(t)
}

// CutAt cuts the power at a step from now on, before its effect or after it but before
// the answer. Step 0 takes the cut back.
func (t *Token) CutAt(step int, after bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps, t.cut, t.events = 0, false, nil
	if step > 0 {
		t.events = append(t.events, event{step: step, after: after, Event: func(t *Token) {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.cut = true
			t.powerCut()
		}})
	}
}

// Cut reports whether the cut that CutAt set has come.
func (t *Token) Cut() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cut
}

// Forgets is what a power cut undoes although it said CKR_OK.
type Forgets struct {
	Creates, Destroys int // the last ones
	// Broken: objects whose destruction was undone come back without a value.
	Broken bool
}

// Forget sets what the next power cuts undo.
func (t *Token) Forget(f Forgets) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgets = f
}

// PowerCut stops the token; Open starts it again.
func (t *Token) PowerCut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.powerCut()
}

func (t *Token) powerCut() {
	t.epoch++
	t.loggedIn = false
	creates, destroys := t.forgets.Creates, t.forgets.Destroys
	for i := len(t.journal) - 1; i >= 0; i-- {
		c := t.journal[i]
		switch {
		case c.created && creates > 0 && t.files[c.number] == c.file:
			creates--
			t.erase(c.number)
		case !c.created && destroys > 0:
			destroys--
			t.undoDestroy(c)
		}
	}
	t.journal = nil
	t.flash.forget()
}

// undoDestroy brings a file back, unless its place was taken.
func (t *Token) undoDestroy(c change) {
	f := c.file
	if t.files[c.number] != nil || !t.flash.restore(f.atDescription) {
		return
	}
	f.described, f.broken = true, t.forgets.Broken || !t.flash.restore(f.atValue)
	t.files[c.number] = f
}

// CutInErase cuts the power while a sector is being erased: nothing starts any more, and
// no initialisation helps.
func (t *Token) CutInErase() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.powerCut()
	t.dead = true
}

// With short APDUs a power cut inside a create takes the value of an older object with
// it at some points: of so many, at so many.
const tearPoints, tearsOfThem = 40, 6

// tear takes the value of an older object, if the power was cut where that happens.
func (t *Token) tear(f *file) {
	if !t.reader.ShortAPDUs {
		return
	}
	t.tears++
	if t.tears*tearsOfThem%tearPoints >= tearsOfThem {
		return
	}
	for _, older := range t.files {
		if older != nil && older != f && older.described && !older.broken {
			t.flash.free(older.atValue)
			older.broken, older.atValue = true, nil
			return
		}
	}
}
