// SPDX-License-Identifier: Apache-2.0

// Package imports proves that imports point downwards only. This file is the map of
// the house: each room, and the rooms that it may use. Test files are free.
package imports

// layer is a package with all packages below its path that have no layer of their
// own, and the layers that it may import. A layer may always import itself.
type layer struct {
	path string
	uses []string
}

// everybody are the layers that all layers below them may use.
var everybody = []string{"pkg/atomicfile", "pkg/memlock", "pkg/mtls", "pkg/agentname"}

// layers begin at the bottom: a layer can use only layers above it in this table. A
// new package needs a layer before it can be imported.
var layers = []layer{
	{"pkg/atomicfile", nil},
	{"pkg/memlock", nil},
	{"pkg/mtls", nil},
	{"pkg/agentname", nil},

	// The Kubernetes API. It has no machinery of ours.
	{"pkg/apis/hsm", nil},
	{"pkg/generated", []string{"pkg/apis/hsm"}},

	// What several of server, controller and discovery must agree on.
	{"pkg/storebinding", nil},
	{"pkg/membership", []string{"pkg/apis/hsm"}},

	// The token. Only pkg/pkcs11 needs cgo, and format needs nothing at all, so that
	// a workstation can read an image of a store.
	{"pkg/pkcs11", nil},
	{"pkg/pinlatch", []string{"pkg/pkcs11"}},
	{"pkg/token/format", nil},
	{"pkg/token/wal", []string{"pkg/token/format"}},
	{"pkg/token", []string{"pkg/pkcs11", "pkg/token/format", "pkg/token/wal"}},

	// The agent, which stores records and knows no kinds; and how to call it.
	{"pkg/agent/api/v1", nil},
	{"pkg/agent/mvcc", nil},
	{"pkg/agent/client", []string{"pkg/agent/api/v1"}},
	{"pkg/agent", []string{"pkg/agent/api/v1", "pkg/agent/mvcc", "pkg/pinlatch", "pkg/pkcs11", "pkg/token", "pkg/token/format", "pkg/token/wal"}},
	{"cmd/agent", []string{"pkg/agent", "pkg/agent/api/v1", "pkg/token"}},

	// The API server, which knows the agent by its API and its client only.
	{"pkg/storage/records", []string{"pkg/agent/api/v1"}},
	{"pkg/storage/configmap", []string{"pkg/agent/api/v1", "pkg/storage/records"}},
	{"pkg/storage/namespaces", []string{"pkg/agent/api/v1", "pkg/storage/records", "pkg/storebinding"}},
	{"pkg/storage/hsm", []string{"pkg/agent/api/v1", "pkg/agent/client", "pkg/storage/records", "pkg/storebinding"}},
	{"pkg/registry/hsm", []string{"pkg/agent/api/v1", "pkg/apis/hsm", "pkg/membership", "pkg/storage/records"}},
	{"pkg/apiserver", []string{
		"pkg/apis/hsm", "pkg/generated", "pkg/membership", "pkg/registry/hsm", "pkg/storebinding",
		"pkg/storage/configmap", "pkg/storage/hsm", "pkg/storage/namespaces", "pkg/storage/records",
	}},
	{"cmd/apiserver", []string{"pkg/apiserver"}},

	// Discovery, which knows devices and no store. The controller knows two things of
	// it: the report, and the names of a device's attributes.
	{"pkg/discovery/sysfs", nil},
	{"pkg/discovery/uevent", nil},
	{"pkg/discovery/report", []string{"pkg/apis/hsm", "pkg/discovery/sysfs"}},
	{"pkg/discovery/dra/attribute", nil},
	{"pkg/discovery", []string{
		"pkg/apis/hsm", "pkg/generated", "pkg/membership",
		"pkg/discovery/dra/attribute", "pkg/discovery/report", "pkg/discovery/sysfs", "pkg/discovery/uevent",
	}},
	{"cmd/discovery", []string{"pkg/discovery"}},

	// The controller, a client of kube-apiserver and of agents.
	{"pkg/controller/identity", []string{"pkg/agent/api/v1"}},
	{"pkg/controller/certs", []string{"pkg/agent/api/v1", "pkg/controller/identity"}},
	{"pkg/controller/projection", []string{"pkg/apis/hsm", "pkg/generated", "pkg/controller/identity"}},
	{"pkg/controller/pool", []string{
		"pkg/agent/api/v1", "pkg/agent/client", "pkg/apis/hsm", "pkg/generated", "pkg/membership",
		"pkg/controller/identity", "pkg/discovery/report",
	}},
	{"pkg/controller/agents", []string{
		"pkg/agent/api/v1", "pkg/apis/hsm", "pkg/generated", "pkg/membership", "pkg/storebinding",
		"pkg/controller/certs", "pkg/controller/identity", "pkg/discovery/dra/attribute",
	}},
	{"pkg/controller", []string{
		"pkg/apis/hsm", "pkg/controller/agents", "pkg/controller/certs", "pkg/controller/identity", "pkg/controller/pool", "pkg/controller/projection",
	}},
	{"cmd/controller", []string{"pkg/controller", "pkg/controller/identity"}},
}

// A foreignRule is about packages of others: no layer but those of only may import
// what begins with prefix, or, without only, none of not.
type foreignRule struct {
	prefix    string
	only, not []string
	why       string
}

// agentSide are the layers that know a token, and no cluster.
var agentSide = []string{"pkg/pkcs11", "pkg/pinlatch", "pkg/token/format", "pkg/token/wal", "pkg/token", "pkg/agent/api/v1", "pkg/agent/mvcc", "pkg/agent/client", "pkg/agent", "cmd/agent"}

var foreignRules = []foreignRule{
	{prefix: "github.com/miekg/pkcs11", only: []string{"pkg/pkcs11"}, why: "only pkg/pkcs11 speaks to a PKCS#11 module"},
	{prefix: "k8s.io/api/", not: agentSide, why: "the agent knows no cluster"},
	{prefix: "k8s.io/client-go", not: agentSide, why: "the agent knows no cluster"},
	{prefix: "k8s.io/apiserver", not: agentSide, why: "the agent knows no cluster"},
}

// standardOnly are layers that import nothing but the standard library.
var standardOnly = []string{"pkg/token/format"}
