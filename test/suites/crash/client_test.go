// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
)

// secret is in every value.
const secret = "value-5f1c"

// state is what a record may be: its zero value is no record.
type state struct {
	value, uid   string
	revision     uint64 // 0: not known.
	dataRevision uint64 // 0: not known.
	stored       uint64 // The revision that a restart leaves: changes of status are gone then.
}

// restarted is what is left of a state when the agent was started again.
func (s state) restarted() state {
	s.revision = s.stored
	return s
}

// key is a record that one client alone writes, so that what it may be is known
// at any time: the last state that was acknowledged, or the one that a request
// of unknown outcome was to bring.
type key struct {
	name  string
	known state
	maybe *state
}

// tally counts the changes of a client.
type tally struct{ acknowledged, unknown, refused, made, lost int }

func (t *tally) add(o tally) {
	t.acknowledged += o.acknowledged
	t.unknown += o.unknown
	t.refused += o.refused
	t.made += o.made
	t.lost += o.lost
}

// client makes one request after the other.
type client struct {
	*agent
	name   string
	keys   []*key
	random *rand.Rand
	writes int
	last   uint64 // The highest revision that it was told.
	tally  tally
}

// load makes requests until the agent is killed, and says when a write was
// acknowledged.
func (c *client) load(acknowledged chan<- struct{}, killed <-chan struct{}) {
	for {
		select {
		case <-killed:
			return
		default:
		}
		k := c.keys[c.random.IntN(len(c.keys))]
		var err error
		before := c.tally.acknowledged
		if k.maybe == nil {
			err = c.request(k)
		}
		if c.tally.acknowledged > before {
			select {
			case acknowledged <- struct{}{}:
			default: // The kill waits for fewer.
			}
		}
		if err != nil && !designed(err) {
			c.Errorf("%s: %v", k.name, err)
			return
		}
		if status.Code(err) == codes.Unavailable {
			return // Killed; or soon it will be.
		}
	}
}

// designed are the errors that an agent which dies may give.
func designed(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled:
		return true
	case codes.Unknown:
		return agentv1.ReasonOf(err) == agentv1.Reason_REASON_OUTCOME_UNKNOWN
	}
	return false
}

func (c *client) request(k *key) error {
	ctx, cancel := context.WithTimeout(c.Context(), hungAfter)
	defer cancel()
	switch n := c.random.IntN(10); {
	case n < 3:
		return c.get(ctx, k)
	case n < 4 && k.known.revision > 0:
		return c.commit(ctx, k, state{})
	case n < 6 && k.known.revision > 0:
		return c.setStatus(ctx, k)
	}
	c.writes++
	next := state{value: fmt.Sprintf("%s %s %d ", secret, k.name, c.writes), uid: k.known.uid}
	if next.uid == "" {
		next.uid = fmt.Sprintf("uid-%s-%d", c.name, c.writes)
	}
	if c.random.IntN(20) == 0 { // Longer than a segment.
		next.value += strings.Repeat("x", 60<<10+c.random.IntN(100<<10))
	}
	return c.commit(ctx, k, next)
}

func (c *client) get(ctx context.Context, k *key) error {
	out, err := c.store.Get(ctx, &agentv1.GetRequest{Key: k.name})
	if err != nil {
		return err
	}
	c.noteRevision(out.GetRevision())
	if problem := differs(out.GetRecord(), k.known); problem != "" {
		c.tally.lost++
		c.Errorf("get %s: %s", k.name, problem)
	}
	return nil
}

// commit brings a key to its next state; the zero state deletes it.
func (c *client) commit(ctx context.Context, k *key, next state) error {
	in := &agentv1.CommitRequest{Key: k.name, ExpectedRevision: k.known.revision, Change: &agentv1.CommitRequest_Delete{Delete: &agentv1.Delete{}}}
	if next.value != "" {
		in.Change = &agentv1.CommitRequest_Put{Put: &agentv1.Put{
			Address: "at " + k.name, Meta: []byte(next.uid), Data: []byte(next.value),
		}}
	}
	out, err := c.store.Commit(ctx, in)
	switch {
	case err == nil && out.GetCommitted():
		c.tally.acknowledged++
		c.noteRevision(out.GetRevision())
		if out.GetRevision() <= k.known.revision {
			c.Errorf("%s: revision %d after %d", k.name, out.GetRevision(), k.known.revision)
		}
		if next.value != "" {
			next.revision, next.dataRevision, next.stored = out.GetRevision(), out.GetDataRevision(), out.GetRevision()
		}
		k.known = next
	case err == nil:
		c.tally.lost++
		c.Errorf("%s is not at revision %d any more, and nobody else writes it", k.name, k.known.revision)
	case agentv1.ReasonOf(err) != agentv1.Reason_REASON_UNSPECIFIED && agentv1.ReasonOf(err) != agentv1.Reason_REASON_OUTCOME_UNKNOWN:
		c.tally.refused++ // The agent says that nothing was changed.
	default:
		c.tally.unknown++
		k.maybe = &next
	}
	return err
}

// setStatus changes what the agent keeps in its memory only.
func (c *client) setStatus(ctx context.Context, k *key) error {
	c.writes++
	out, err := c.store.Commit(ctx, &agentv1.CommitRequest{Key: k.name, ExpectedRevision: k.known.revision, Change: &agentv1.CommitRequest_SetStatus{
		SetStatus: &agentv1.SetStatus{Status: fmt.Append(nil, c.writes)},
	}})
	switch {
	case err != nil:
		unknown := k.known
		k.maybe = &unknown
	case !out.GetCommitted():
		c.tally.lost++
		c.Errorf("%s is not at revision %d any more, and nobody else writes it", k.name, k.known.revision)
	default:
		c.noteRevision(out.GetRevision())
		k.known.revision = out.GetRevision()
	}
	return err
}

// noteRevision notes a revision that an answer was of; they never go back.
func (c *client) noteRevision(revision uint64) {
	if revision < c.last {
		c.Errorf("%s was told revision %d after %d", c.name, revision, c.last)
	}
	c.last = revision
}

// check looks at the whole store, after a restart: each key is as it was
// acknowledged, or as the one request of unknown outcome was to make it.
func check(a *agent, all []*client, begins uint64) {
	a.Helper()
	records, revision := a.list()
	for _, c := range all {
		if begins < c.last || revision < begins {
			a.Errorf("the agent begins at revision %d, and lists at %d; %s was told %d before", begins, revision, c.name, c.last)
		}
		c.last = revision
		for _, k := range c.keys {
			c.settle(k, records[k.name])
			delete(records, k.name)
		}
	}
	for name := range records {
		a.Errorf("nobody has written %s", name)
	}
}

// settle finds out which of its possible states a key has.
func (c *client) settle(k *key, found *agentv1.Record) {
	k.known = k.known.restarted()
	problem := differs(found, k.known)
	if problem != "" && k.maybe != nil && differs(found, *k.maybe) == "" {
		if found != nil && found.GetRevision() <= k.known.revision {
			c.Errorf("%s: a change was made at revision %d, after %d", k.name, found.GetRevision(), k.known.revision)
		}
		problem = ""
		c.tally.made++
		k.known = *k.maybe
		if found != nil {
			k.known.revision, k.known.dataRevision, k.known.stored = found.GetRevision(), found.GetDataRevision(), found.GetRevision()
		}
	}
	if problem != "" {
		c.tally.lost++
		c.Errorf("after a restart %s is of a third state: %s", k.name, problem)
	}
	k.maybe = nil
}

// differs says in what a record is not in a state.
func differs(r *agentv1.Record, s state) string {
	switch {
	case r == nil && s.value == "":
		return ""
	case r == nil:
		return fmt.Sprintf("it is gone; it was acknowledged at revision %d", s.revision)
	case s.value == "":
		return fmt.Sprintf("it is there, of revision %d", r.GetRevision())
	case string(r.GetData()) != s.value:
		return fmt.Sprintf("its value is %.60q, not %.60q", r.GetData(), s.value)
	case string(r.GetMeta()) != s.uid:
		return fmt.Sprintf("its uid is %q, not %q", r.GetMeta(), s.uid)
	case s.revision > 0 && (r.GetRevision() != s.revision || r.GetDataRevision() != s.dataRevision):
		return fmt.Sprintf("its revisions are %d and %d, not %d and %d", r.GetRevision(), r.GetDataRevision(), s.revision, s.dataRevision)
	}
	return ""
}
