// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/test/framework/await"
	"j5t.io/hsm/test/framework/process"
)

// tokenFiles is the folder of the token's objects.
func tokenFiles(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(hsm.Token.Dir, "*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("folder of the token: %v %v", found, err)
	}
	return found[0]
}

// keepToken copies the token away, and gives what puts it back. No agent may run
// while it does.
func keepToken(t *testing.T) (putBack func()) {
	t.Helper()
	files, kept := tokenFiles(t), filepath.Join(t.TempDir(), "token")
	if err := os.CopyFS(kept, os.DirFS(files)); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := os.RemoveAll(files); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(files, os.DirFS(kept)); err != nil {
			t.Fatal(err)
		}
	}
}

// pullToken takes the token out of the reader, whether an agent uses it or not.
func pullToken(t *testing.T) (plug func()) {
	t.Helper()
	files, away := tokenFiles(t), filepath.Join(t.TempDir(), "token")
	if err := os.Rename(files, away); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := os.Rename(away, files); err != nil {
			t.Fatal(err)
		}
	}
}

// blankToken removes all objects: what stays is the token with its PINs.
func blankToken(t *testing.T) {
	t.Helper()
	for _, path := range objectFiles(t) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// objectFiles are SoftHSM's files of the objects on the token.
func objectFiles(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(tokenFiles(t), "*-*.object"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// damageToken changes one byte in the content of the data object that was
// written last.
func damageToken(t *testing.T) {
	t.Helper()
	var last string
	var content []byte
	var written time.Time
	for _, path := range objectFiles(t) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		object, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if isData(object) && info.ModTime().After(written) {
			last, content, written = path, object, info.ModTime()
		}
	}
	if last == "" {
		t.Fatal("the token holds no data object")
	}
	start, length, ok := value(content)
	if !ok {
		t.Fatalf("%s has no value", last)
	}
	content[start+length/2] ^= 1
	if err := os.WriteFile(last, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// An object of SoftHSM's backend "file" is a generation and attributes. Each has
// a type, a kind and its content; the first is the class (SoftHSMv2,
// src/lib/object_store/ObjectFile.cpp). All numbers have 8 bytes, big endian.
const (
	classOffset   = 24
	attributeSize = 8
	ckoData       = 0
	ckaValue      = 0x11
	kindBytes     = 3
)

func isData(object []byte) bool {
	return len(object) > classOffset+attributeSize && binary.BigEndian.Uint64(object[classOffset:]) == ckoData
}

func value(object []byte) (start, length int, ok bool) {
	head := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, ckaValue), kindBytes)
	at := bytes.Index(object, head)
	if at < 0 {
		return 0, 0, false
	}
	at += len(head)
	return at + attributeSize, int(binary.BigEndian.Uint64(object[at:])), true
}

// startAgent starts the agent, with changes to how it is started, and waits
// until it gives the reason for which it does not serve.
func startAgent(t *testing.T, reason agentv1.Reason, change func(*process.Spec)) {
	t.Helper()
	spec, err := hsm.AgentSpec(t.Context(), "agent", hsm.AgentAddress, hsm.Token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&spec)
	}
	if hsm.Agent, err = process.Start(soon(t), spec); err != nil {
		t.Fatal(err)
	}
	waitForReason(t, reason)
}

func waitForReason(t *testing.T, reason agentv1.Reason) {
	t.Helper()
	await.NoError(t, 30*time.Second, func(ctx context.Context) error {
		status, err := hsm.AgentStatus(ctx, hsm.AgentAddress)
		if err != nil {
			return err
		}
		if status.GetReason() != reason {
			return fmt.Errorf("the agent says %q, want %s", status, reason)
		}
		return nil
	})
}

// restartAgent ends the agent, whatever it does, and starts it as it should be.
func restartAgent(t *testing.T) {
	t.Helper()
	hsm.Agent.Kill()
	if err := hsm.StartAgent(soon(t)); err != nil {
		t.Fatal(err)
	}
}

// setFlag replaces the value of a flag.
func setFlag(spec *process.Spec, flag, value string) {
	for i, arg := range spec.Args {
		if bytes.HasPrefix([]byte(arg), []byte(flag+"=")) {
			spec.Args[i] = flag + "=" + value
			return
		}
	}
	spec.Args = append(spec.Args, flag+"="+value)
}
