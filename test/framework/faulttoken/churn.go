// SPDX-License-Identifier: Apache-2.0

package faulttoken

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Churn updates secrets at random on a token to which things happen at random. It knows
// nothing of how they are stored.
type Churn struct {
	Token   *Token
	Random  *rand.Rand
	Secrets int
	Bytes   int // Of each; at least 8.
	Updates int
	Mishaps Mishaps // Its Random is that of Churn.

	// Put writes a secret. After an error it may have been written or not.
	Put func(secret int, value []byte) error
	// Get reads it.
	Get func(secret int) ([]byte, error)
	// Reopen is what comes after an error, with the token in its place. It returns when
	// secrets are served again.
	Reopen func() error
}

// ChurnReport is what came of it.
type ChurnReport struct {
	Updates int // That were acknowledged.
	Mishaps int
	Reopens int
	// Refused is updates, and Closed is reopenings, that failed although nothing had happened.
	Refused, Closed int
	// Wrong is secrets that were not read as they were acknowledged.
	Wrong int
	// Unserved is the longest time from a return of the token until secrets were served.
	Unserved time.Duration
}

// Run writes all secrets, updates them, and reads them at last. It ends with the error
// of the first update that was refused.
func (c *Churn) Run() (ChurnReport, error) {
	run := churnRun{Churn: c, values: map[int][]byte{}}
	err := run.all()
	return run.report, err
}

type churnRun struct {
	*Churn
	report ChurnReport
	values map[int][]byte // As acknowledged.
	opened int            // Mishaps before the store was opened.
	number uint64
}

func (c *churnRun) all() error {
	for secret := range c.Secrets {
		if err := c.update(secret); err != nil {
			return fmt.Errorf("secret %d: %w", secret, err)
		}
	}
	c.Token.Mishaps(c.counted())
	c.report.Updates = 0
	for update := range c.Updates {
		if err := c.update(c.Random.IntN(c.Secrets)); err != nil {
			return fmt.Errorf("update %d: %w", update, err)
		}
	}
	c.Token.Mend()
	if err := c.reopen(); err != nil {
		return err
	}
	for secret, want := range c.values {
		if got, err := c.Get(secret); err != nil || !bytes.Equal(got, want) {
			c.report.Wrong++
		}
	}
	return nil
}

// counted are the mishaps; each is counted.
func (c *churnRun) counted() Mishaps {
	m := c.Mishaps
	events := m.Events
	m.Random = c.Random
	m.Events = []Event{func(t *Token) {
		c.report.Mishaps++
		events[c.Random.IntN(len(events))](t)
	}}
	return m
}

// update goes on until the update is acknowledged, or is refused on a token to which
// nothing has happened since it was opened.
func (c *churnRun) update(secret int) error {
	c.number++
	value := binary.BigEndian.AppendUint64(nil, c.number)
	value = append(value, make([]byte, c.Bytes-len(value))...)
	for {
		err := c.Put(secret, value)
		if err == nil {
			c.values[secret] = value
			c.report.Updates++
			return nil
		}
		if c.report.Mishaps == c.opened {
			c.report.Refused++
			return fmt.Errorf("refused: %w", err)
		}
		if err := c.reopen(); err != nil {
			return err
		}
	}
}

func (c *churnRun) reopen() error {
	for {
		c.Token.Insert()
		before, start := c.report.Mishaps, time.Now()
		err := c.Reopen()
		if err == nil {
			c.opened = before
			c.report.Reopens++
			c.report.Unserved = max(c.report.Unserved, time.Since(start))
			return nil
		}
		if c.report.Mishaps == before {
			c.report.Closed++
			return errors.Join(errors.New("the store does not open although nothing happened"), err)
		}
	}
}
