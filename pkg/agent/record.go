// SPDX-License-Identifier: Apache-2.0

package agent

import (
	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/mvcc"
)

// withData gives a whole record. Data that is empty is there all the same.
func withData(r *mvcc.Record, data []byte) *agentv1.Record {
	out := withoutData(r)
	if out != nil {
		out.Data = append([]byte{}, data...)
	}
	return out
}

func withoutData(r *mvcc.Record) *agentv1.Record {
	if r == nil {
		return nil
	}
	return &agentv1.Record{
		Key: r.Key, Address: r.Address, Meta: r.Meta, Status: r.Status,
		Revision: r.Revision, DataRevision: r.DataRevision,
	}
}
