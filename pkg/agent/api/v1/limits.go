// SPDX-License-Identifier: Apache-2.0

package agentv1

const (
	// Port is where an agent listens.
	Port = 9443

	// MaxRecordBytes is how large all parts of one record may be together.
	// A core Secret holds at most 1 MiB of data.
	MaxRecordBytes = 2 << 20
	// MaxMessageBytes is how large a message may be, either way: an event holds
	// its record twice. Set it with grpc.MaxCallRecvMsgSize and
	// grpc.MaxCallSendMsgSize on the client's side.
	MaxMessageBytes = 3 * MaxRecordBytes

	// MetadataAuditID and MetadataUser are the gRPC metadata keys under which
	// a caller says for which request of whom it asks. The agent only logs them.
	MetadataAuditID = "audit-id"
	MetadataUser    = "user"

	// ClientAPIServer and ClientController are the common names in the client
	// certificates that an agent knows: the API server may call everything, the
	// controller Store.Status, Device.Info and the health service.
	ClientAPIServer  = "hsm-apiserver"
	ClientController = "hsm-controller"

	// LivenessService is what the health service calls the process: it serves as
	// long as it answers. The service without a name is the store on the token.
	LivenessService = "liveness"
)
