// SPDX-License-Identifier: Apache-2.0

// Package identity owns the one name by which the controller is known: to agents by its
// certificate, to the API server by managedFields, its lease, its Events and the labels
// of what it makes. The manifests of artifacts/deploy use the same name.
package identity

import agentv1 "j5t.io/hsm/pkg/agent/api/v1"

const (
	// Name is that of the controller.
	Name = agentv1.ClientController
	// FieldManager is its name in managedFields. The controller of agents has one of its
	// own: what is applied under one name replaces what was applied under it before.
	FieldManager       = Name
	AgentsFieldManager = Name + "-agents"
)
