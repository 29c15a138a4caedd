// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"j5t.io/hsm/pkg/atomicfile"
	"j5t.io/hsm/pkg/token"
	"j5t.io/hsm/pkg/token/wal"
	"j5t.io/hsm/test/framework/faulttoken"
)

const benchRecords = 60

// benchStore is a store of many records on a token that costs nothing, with its
// log on a real disk: what is measured is our own work.
func benchStore(b *testing.B, dir string) (*faulttoken.Token, *token.Store) {
	b.Helper()
	tok := faulttoken.New(faulttoken.SoftHSM)
	store := benchOpen(b, tok, token.Options{Provision: true}, dir)
	for i := range uint64(benchRecords) {
		if err := store.Commit([]token.Change{put(fmt.Sprintf("ns/%d", i), i+1, 600)}); err != nil {
			b.Fatal(err)
		}
	}
	return tok, store
}

func benchOpen(b *testing.B, tok *faulttoken.Token, o token.Options, dir string) *token.Store {
	b.Helper()
	session, err := tok.Open()
	if err != nil {
		b.Fatal(err)
	}
	if dir != "" {
		o.Log = wal.New(atomicfile.OS{}, filepath.Join(dir, "shadow"))
	}
	store, err := token.Open(session, o)
	if err != nil {
		b.Fatal(err)
	}
	return store
}

func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	tok, store := benchStore(b, dir)
	o := token.Options{StoreID: store.ID()}
	b.ReportAllocs()
	for b.Loop() {
		benchOpen(b, tok, o, dir)
	}
}

func BenchmarkData(b *testing.B) {
	_, store := benchStore(b, "")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := store.Data("ns/7"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCommit updates a record, and collects what that leaves behind. No log
// is kept, for its fsync would hide all else.
func BenchmarkCommit(b *testing.B) {
	_, store := benchStore(b, "")
	revision := store.Head()
	b.ReportAllocs()
	for b.Loop() {
		revision++
		if err := store.Commit([]token.Change{put("ns/7", revision, 600)}); err != nil {
			b.Fatal(err)
		}
		if _, err := store.CollectGarbage(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCompact fills a small token, deletes half of it, and makes space.
func BenchmarkCompact(b *testing.B) {
	profile := token.Profile{Name: "small", Objects: 90, Reserve: 24, SegmentBytes: 3900, RecordBytes: 5000}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		session, err := faulttoken.New(faulttoken.SoftHSM).Open()
		if err != nil {
			b.Fatal(err)
		}
		store, err := token.Open(session, token.Options{Provision: true, Profile: profile})
		if err != nil {
			b.Fatal(err)
		}
		for i := range uint64(benchRecords) {
			if err := store.Commit([]token.Change{put(fmt.Sprintf("ns/%d", i), i+1, 600)}); err != nil {
				b.Fatal(err)
			}
		}
		revision := store.Head()
		b.StartTimer()
		for more := true; more; {
			if more, err = store.Compact(func() uint64 { revision++; return revision }); err != nil {
				b.Fatal(err)
			}
		}
	}
}
