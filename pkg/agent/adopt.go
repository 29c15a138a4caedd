// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/grpc/codes"
	"k8s.io/klog/v2"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/token"
)

// adoption is the request to make the store of another cluster into this agent's.
// A dry run only reads; else the wish is written down first, so that it goes on
// after a crash, and then opening the store adopts it.
type adoption struct {
	from   string // Id of the store.
	dryRun bool
	out    *agentv1.AdoptResponse
	done   chan error
}

// ofCluster are the fields of an object's metadata that refer to other objects of
// its cluster, or wait for something there. A garbage collector that does not find
// an owner deletes the object; one that was being deleted would wait for ever.
var ofCluster = []string{"ownerReferences", "finalizers", "deletionTimestamp", "deletionGracePeriodSeconds"}

// strip takes them out of an object in JSON, and returns which there were.
func strip(object []byte) (stripped []byte, fields []string, err error) {
	var whole, metadata map[string]json.RawMessage
	if err := json.Unmarshal(object, &whole); err != nil {
		return nil, nil, fmt.Errorf("it is no object in JSON: %w", err)
	}
	if err := json.Unmarshal(whole["metadata"], &metadata); err != nil {
		return nil, nil, fmt.Errorf("it has no metadata: %w", err)
	}
	for _, field := range ofCluster {
		if _, there := metadata[field]; there {
			delete(metadata, field)
			fields = append(fields, field)
		}
	}
	if len(fields) == 0 {
		return object, nil, nil
	}
	if whole["metadata"], err = json.Marshal(metadata); err != nil {
		return nil, nil, err
	}
	stripped, err = json.Marshal(whole)
	return stripped, fields, err
}

// Adopt implements the Device service.
func (s *deviceService) Adopt(ctx context.Context, in *agentv1.AdoptRequest) (*agentv1.AdoptResponse, error) {
	if in.GetStoreId() == "" {
		return nil, invalidError("an adoption needs the id of the store")
	}
	if now, _ := s.state.now(); now.reason != agentv1.Reason_REASON_TOKEN_FOREIGN {
		return nil, agentv1.NewError(codes.FailedPrecondition, now.reason, "the token is not one of another store, so nothing can be adopted")
	}
	a := &adoption{from: in.GetStoreId(), dryRun: in.GetDryRun(), done: make(chan error, 1)}
	select {
	case s.adoptions <- a:
	case <-s.stopping:
		return nil, stopping.err()
	case <-ctx.Done():
		return nil, notBegunError(ctx)
	}
	select {
	case err := <-a.done:
		if err != nil {
			return nil, err
		}
	case <-ctx.Done():
		return nil, outcomeUnknownError(context.Cause(ctx))
	}
	audit(ctx, "Store adopted", "from", a.from, "to", a.out.GetStoreId(), "dryRun", a.dryRun, "records", a.out.GetRecords())
	return a.out, nil
}

// beginAdoption does a dry run, and if more is asked for prepares the next attempt to
// open the store to adopt it. It reports whether that is to be made.
func (s *supervisor) beginAdoption(a *adoption) bool {
	err := s.watchdog.guard("looking at a store to adopt", func() (err error) {
		a.out, err = s.connection.inspect(a.from)
		return err
	})
	if err == nil && !a.dryRun {
		a.out.StoreId = token.NewStoreID()
		err = s.connection.identity.beginAdoption(a.from, a.out.GetStoreId())
	}
	if err != nil || a.dryRun {
		a.done <- adoptionError(err)
		return false
	}
	klog.InfoS("Adopting the store of another cluster", "from", a.from, "to", a.out.GetStoreId(), "records", a.out.GetRecords())
	s.adopting = a
	return true
}

// inspect reports what adopting a store changes. Without a log, opening it changes
// nothing anywhere.
func (i *identity) inspect(device token.Device, storeID string) (*agentv1.AdoptResponse, error) {
	store, err := token.Open(device, token.Options{StoreID: storeID, Profile: i.profile})
	if err != nil {
		return nil, err
	}
	out := &agentv1.AdoptResponse{}
	for r := range store.Records() {
		_, fields, err := strip(r.Meta)
		if err != nil {
			return nil, fmt.Errorf("record %q cannot be adopted: %w", r.Key, err)
		}
		out.Records++
		if len(fields) > 0 {
			out.Stripped = append(out.Stripped, &agentv1.StrippedRecord{Key: r.Key, Fields: fields})
		}
	}
	return out, nil
}

// finishAdoption tells what became of the adoption that the last attempt was to make.
func (s *supervisor) finishAdoption(err error) {
	goesOn := err != nil && conditionOf(err).transient()
	if err != nil && !goesOn {
		s.connection.identity.dropAdoption() // It has to be asked for again.
	}
	if s.adopting == nil {
		return
	}
	if goesOn {
		s.adopting.done <- outcomeUnknownError(err)
	} else {
		s.adopting.done <- adoptionError(err)
	}
	s.adopting = nil
}

// adoptionError maps an error of an adoption to what its caller is told.
func adoptionError(err error) error {
	if err == nil {
		return nil
	}
	now := conditionOf(err)
	return agentv1.NewError(codes.FailedPrecondition, now.reason, "the store was not adopted: %v", err)
}
