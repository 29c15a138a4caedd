// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"j5t.io/hsm/pkg/agent"
	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/token"
)

type options struct {
	agent         agent.Options
	listen        string
	metricsListen string
	healthListen  string
}

func parse(args []string) (*options, error) {
	var o options
	var slot uint
	var profile string
	fs := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	fs.SortFlags = false
	a := &o.agent
	fs.StringVar(&a.Module, "pkcs11-module", "", "Absolute path of the PKCS#11 library that reaches the token. Required.")
	fs.StringVar(&a.Token.Serial, "token-serial", "", "Serve the token with this serial number. The safest way to choose: labels and slots may change.")
	fs.StringVar(&a.Token.Label, "token-label", "", "Serve the token with this label.")
	fs.UintVar(&slot, "slot", 0, "Serve the token in the slot with this PKCS#11 slot ID.")
	fs.StringVar(&a.PINFile, "pin-file", "", "File with the user's PIN. When the token rejects it, it is not tried again until the file changes. Required.")
	fs.StringVar(&a.NewPINFile, "new-pin-file", "", "File with the PIN that the token is to get; it need not exist. Leave both files as they are until the agent's status says that the PIN was changed, then write the new one to --pin-file.")
	fs.StringVar(&a.StateDir, "state-dir", "", "Existing directory that belongs to this agent alone, and is kept over restarts. Required.")
	fs.BoolVar(&a.Provision, "provision", false, "Make a new store on the token if it is blank and this agent has not served a store before.")
	fs.StringVar(&a.SOPINFile, "so-pin-file", "", "File with the security officer's PIN. Only with --provision, for a token that has no user PIN yet: the PIN of --pin-file is set on it.")
	fs.StringVar(&a.StoreID, "store-id", "", "Hexadecimal id of the store to serve. Only needed when the state directory is new and the token is not.")
	fs.StringVar(&a.StoreIDHint, "store-id-hint", "", "Hexadecimal id of a store that is served if the state directory is new and the token holds it. Any other one is refused, and a blank token is taken for what it is.")
	fs.StringVar(&profile, "token-profile", "", "What the token can hold: pico, smartcard-hsm, softhsm or generic. Default: by the manufacturer and model that the token gives.")
	fs.DurationVar(&a.ScrubInterval, "scrub-interval", agent.DefaultScrubInterval, "How often the whole store is read from the token itself, and repaired. Each time costs a login, which most tokens write to flash.")
	fs.StringVar(&o.listen, "listen", ":"+strconv.Itoa(agentv1.Port), "Address to serve gRPC on.")
	fs.StringVar(&o.metricsListen, "metrics-listen", "", "Address to serve /metrics on, by plain HTTP and to everybody: no metric names a secret. Default: not served.")
	fs.StringVar(&o.healthListen, "health-listen", "", "Address to serve the gRPC health service on, without TLS, for probes. Default: nowhere.")
	fs.StringVar(&a.TLS.CertFile, "tls-cert-file", "", "PEM file with the serving certificate. Required; read again at each connection.")
	fs.StringVar(&a.TLS.KeyFile, "tls-private-key-file", "", "PEM file with its private key. Required; read again at each connection.")
	fs.StringVar(&a.TLS.CAFile, "client-ca-file", "", "PEM file with the authorities whose client certificates are accepted. Required; read again at each connection.")
	var logging flag.FlagSet
	klog.InitFlags(&logging)
	fs.AddGoFlag(logging.Lookup("v"))
	if err := fs.Parse(args); err != nil {
		return nil, err
	}

	if fs.NArg() > 0 {
		return nil, fmt.Errorf("%q is not a flag: the agent takes flags only", fs.Arg(0))
	}
	for _, required := range []string{"pkcs11-module", "pin-file", "state-dir", "tls-cert-file", "tls-private-key-file", "client-ca-file"} {
		if fs.Lookup(required).Value.String() == "" {
			return nil, fmt.Errorf("--%s is required", required)
		}
	}
	if fs.Changed("slot") {
		a.Token.SlotID = &slot
	}
	if a.Token.Serial == "" && a.Token.Label == "" && a.Token.SlotID == nil {
		return nil, fmt.Errorf("one of --token-serial, --token-label and --slot is required: it says which token to serve")
	}
	if profile != "" {
		var err error
		if a.Profile, err = token.ProfileNamed(profile); err != nil {
			return nil, fmt.Errorf("--token-profile: %w", err)
		}
	}
	if a.ScrubInterval < time.Minute {
		return nil, fmt.Errorf("--scrub-interval is %v: it must be a minute or more", a.ScrubInterval)
	}
	if a.SOPINFile != "" && !a.Provision {
		return nil, fmt.Errorf("--so-pin-file is of use only with --provision")
	}
	return &o, nil
}
