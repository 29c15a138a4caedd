// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/mtls"
)

const readTimeout = 10 * time.Second

// read asks the agent for a record, past all of Kubernetes, with the API server's certificate.
func (state) read(ctx context.Context, key string) error {
	credentials, err := mtls.Files{
		CAFile:   os.Getenv("AGENT_CA_FILE"),
		CertFile: os.Getenv("AGENT_CERT_FILE"),
		KeyFile:  os.Getenv("AGENT_KEY_FILE"),
	}.Client()
	if err != nil {
		return err
	}
	connection, err := grpc.NewClient(os.Getenv("AGENT_ADDRESS"), grpc.WithTransportCredentials(credentials))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	answer, err := agentv1.NewStoreClient(connection).Get(ctx, &agentv1.GetRequest{Key: key})
	if err != nil {
		return err
	}
	record := answer.GetRecord()
	if record == nil {
		return fmt.Errorf("the token %s holds no record %q at revision %d", answer.GetSerial(), key, answer.GetRevision())
	}
	fmt.Printf("token    %s\n", answer.GetSerial())
	fmt.Printf("address  %s\n", record.GetAddress())
	fmt.Printf("revision %d\n", record.GetRevision())
	fmt.Printf("data     %s\n", strconv.Quote(string(record.GetData())))
	return nil
}
