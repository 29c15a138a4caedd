// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"j5t.io/hsm/pkg/agent/mvcc"
	"j5t.io/hsm/pkg/pkcs11"
	"j5t.io/hsm/pkg/token"
)

// getTask reads one record with its data; record is nil when there is none.
type getTask struct {
	key      string
	record   *mvcc.Record
	data     []byte
	revision uint64
}

// get answers all that wait for one record by one read of the token.
func (w *worker) get(key string, waiting []*request) error {
	var sharing []*request
	for _, r := range waiting {
		if task, ok := r.task.(*getTask); ok && task.key == key && w.queue.begin(r) {
			sharing = append(sharing, r)
		}
	}
	if len(sharing) == 0 {
		return nil
	}
	x, revision := w.versions.Current()
	result := getTask{key: key, record: x.Get(key), revision: revision}
	var err error
	if result.record != nil {
		result.data, err = w.data(result.record.Version())
	}
	if lost := ifLost(err); lost != nil {
		w.repeat(err, sharing...)
		return lost
	}
	for _, r := range sharing {
		*r.task.(*getTask) = result
		r.done <- requestError(err)
	}
	return nil
}

// data gives the data of a version: from the token if that holds it, from the
// history if it was overwritten since.
func (w *worker) data(v mvcc.Version) (data []byte, err error) {
	x, _ := w.versions.Current()
	if current := x.Get(v.Key); current == nil || current.Version() != v {
		return w.versions.Data(v)
	}
	err = w.read(func() (err error) {
		data, err = w.connection.store.Data(v.Key)
		return err
	})
	return data, err
}

// read does a read of the token.
func (w *worker) read(f func() error) error {
	err := w.withLogin("reading", f)
	if err != nil && meaningOf(err).suspicious {
		w.housekeeping.suspect()
	}
	return err
}

// withLogin does work that can be done twice. A login that the token has lost is
// made again, once.
func (w *worker) withLogin(work string, f func() error) error {
	err := w.watchdog.guard(work, f)
	if token.ReasonOf(err) != 0 || pkcs11.ClassOf(err) != pkcs11.ClassRelogin {
		return err
	}
	if err := w.watchdog.guard("logging in again", w.connection.loginAgain); err != nil {
		return lostError{err}
	}
	return w.watchdog.guard(work, f)
}
