// SPDX-License-Identifier: Apache-2.0

// Package mutants breaks the code on purpose, one line at a time, and demands that a test
// fails each time. What it breaks is what once was broken without a test that noticed, or
// must never be. It never changes a file: the go command reads the broken ones in place of
// those of the tree (its flag -overlay).
package mutants

// mutant is a line that is broken, and the test that has to notice.
type mutant struct {
	name     string // What the broken code does.
	file     string // Below the root of the module.
	old, new string // old is in the file exactly once.
	pkg      string // The package of the test.
	test     string
	tries    int  // Of a test that waits for a coincidence; 0 is one.
	cheap    bool // Compiled in seconds: it is tried in each make test.
}

var mutants = []mutant{
	{
		name: "a file is replaced by one that is not on disk",
		file: "pkg/atomicfile/atomicfile.go",
		old:  "if err := fs.Sync(path + suffix); err != nil {",
		new:  "if err := error(nil); err != nil {",
		pkg:  "./pkg/atomicfile", test: "TestReplaceCrash", cheap: true,
	},
	{
		name: "an addition to a file is not on disk",
		file: "pkg/atomicfile/atomicfile.go",
		old:  "return fs.Sync(path)\n",
		new:  "return nil\n",
		pkg:  "./pkg/atomicfile", test: "TestAppendCrash", cheap: true,
	},
	{
		name: "the kernel is not asked to sync",
		file: "pkg/atomicfile/atomicfile.go",
		old:  "if err := f.Sync(); err != nil {",
		new:  "if err := error(nil); err != nil {",
		pkg:  "./pkg/atomicfile", test: "TestOSSyncs", cheap: true,
	},
	{
		name: "the log is added to, and not on disk when the token is touched",
		file: "pkg/atomicfile/atomicfile.go",
		old:  "return fs.Sync(path)\n",
		new:  "return nil\n",
		pkg:  "./pkg/token/wal", test: "TestCrash",
	},
	{
		name: "a rewritten log forgets what was not made",
		file: "pkg/token/log.go",
		old:  "entries = append(entries, e)",
		new:  "_ = e",
		pkg:  "./pkg/token", test: "TestRewrittenLogKeepsFailures",
	},
	{
		name: "a rewritten log forgets what was not made after so many others",
		file: "pkg/token/log.go",
		old:  "named[made]++",
		new:  "named[true], named[false] = named[true]+1, named[false]+1",
		pkg:  "./pkg/token", test: "TestRewrittenLogKeepsFailures",
	},
	{
		name: "a rewritten log takes what was not made for made",
		file: "pkg/token/log.go",
		old:  "return wal.Failed(name)",
		new:  "return wal.Made(name)",
		pkg:  "./pkg/token", test: "TestRewrittenLogKeepsFailures",
	},
	{
		name: "of the last destroyed commits the list keeps the highest, not the last",
		file: "pkg/token/deletions.go",
		old:  "byTimes[times] = append(byTimes[times], id)",
		new:  "byTimes[min(times, 1)] = append(byTimes[min(times, 1)], id)",
		pkg:  "./pkg/token", test: "TestLastDestroysUndoneAfterRestarts",
	},
	{
		name: "the list keeps fewer of the last destroyed commits than a power cut can bring back",
		file: "pkg/token/deletions.go",
		old:  "rememberedDeletions = 16",
		new:  "rememberedDeletions = 12",
		pkg:  "./pkg/token", test: "TestLastDestroysUndoneAfterRestarts",
	},
	{
		name: "what was inherited is forgotten at once",
		file: "pkg/token/deletions.go",
		old:  "if later >= rememberedDeletions {",
		new:  "if later >= 1 {",
		pkg:  "./pkg/token", test: "TestLastDestroysUndoneAfterRestarts",
	},
	{
		name: "garbage is destroyed in another order than the next opener thinks",
		file: "pkg/token/collect.go",
		old:  "return cmp.Compare(a.id, b.id) })\n}\n\n// waiting",
		new:  "return cmp.Compare(b.id, a.id) })\n}\n\n// waiting",
		pkg:  "./pkg/token", test: "TestLastDestroysUndone",
	},
	{
		name: "a change is sent again when the connection breaks",
		file: "pkg/storage/hsm/calls.go",
		old:  "again = reused && kind != isChange",
		new:  "again = reused",
		pkg:  "./pkg/storage/hsm", test: "TestChangeIsSentOnce",
	},
	{
		name: "the rest of a batch is acknowledged when the token is lost inside of it",
		file: "pkg/agent/commit.go",
		old:  "w.repeat(err, (&batch{changes: b.changes[i+1:]}).requests()...)",
		new:  "w.publish(&batch{changes: b.changes[i+1:]})",
		pkg:  "./pkg/agent", test: "TestTokenLostInsideOfABatch",
	},
	{
		name: "a change that the token refused is acknowledged",
		file: "pkg/agent/commit.go",
		old:  "	b.reply(requestError(err))\n	return nil\n",
		new:  "	_ = requestError(err)\n	w.publish(b)\n	return nil\n",
		pkg:  "./pkg/agent", test: "TestWritesThatFitAreMadeBesideOneThatDoesNot",
	},
	{
		name: "a watch takes its channel after it has read",
		file: "pkg/agent/watch.go",
		old: `		changed := w.versions.Changed() // Before reading, to miss none.
		events, upTo, err := w.versions.After(w.position, w.in.GetPrefix(), watchBatch)
`,
		new: `		events, upTo, err := w.versions.After(w.position, w.in.GetPrefix(), watchBatch)
		changed := w.versions.Changed()
`,
		pkg: "./pkg/agent", test: "TestWatchMissesNoChange", tries: 40,
	},
	{
		name: "a request waits for all compaction",
		file: "pkg/agent/housekeeping.go",
		old:  "			compacted = true\n",
		new:  "			compacted = false\n",
		pkg:  "./pkg/agent", test: "TestLargeSecretFitsAfterAPause",
	},
	{
		name: "compaction does not go ahead of need",
		file: "pkg/token/commit.go",
		old:  "s.compaction = compaction{wanted: s.following(r)}",
		new:  "s.compaction = compaction{}",
		pkg:  "./pkg/token", test: "TestCompactionGoesAheadOfNeed",
	},
}
