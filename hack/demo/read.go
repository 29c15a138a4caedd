// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/mtls"
)

const readTimeout = 10 * time.Second

// read asks the agent for the record at an address (spec.hsmPath), past all of Kubernetes, with the
// API server's certificate.
func (state) read(ctx context.Context, address string) error {
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
	store := agentv1.NewStoreClient(connection)
	key, err := keyOf(ctx, store, address)
	if err != nil {
		return err
	}
	answer, err := store.Get(ctx, &agentv1.GetRequest{Key: key})
	if err != nil {
		return err
	}
	fmt.Printf("token     %s\n", answer.GetSerial())
	fmt.Printf("key       %s\n", key)
	fmt.Printf("revision  %d\n", answer.GetRecord().GetRevision())
	fmt.Printf("data      %q\n", answer.GetRecord().GetData())
	return nil
}

// keyOf looks at the names only: no value is read from the token.
func keyOf(ctx context.Context, store agentv1.StoreClient, address string) (string, error) {
	list, err := store.List(ctx, &agentv1.ListRequest{WithoutData: true})
	if err != nil {
		return "", err
	}
	for {
		answer, err := list.Recv()
		if err != nil {
			return "", err
		}
		for _, record := range answer.GetRecords() {
			if record.GetAddress() == address {
				return record.GetKey(), nil
			}
		}
		if answer.GetEnd() != nil {
			return "", fmt.Errorf("the token %s holds nothing at %q", answer.GetEnd().GetSerial(), address)
		}
	}
}
