// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// figurePrefix begins a line with which a test reports what it counted: "figure: NAME VALUE".
const figurePrefix = "figure: "

// progressInterval is how often it is told what runs.
const progressInterval = 30 * time.Second

// slowSeconds is how long a test has to take to get a line of its own when it passes.
const slowSeconds = 10

// event is one line of "go test -json" ("go doc test2json", "go help buildjson").
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output and build-fail
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

type testID struct{ pkg, test string }

type report struct {
	out     io.Writer
	began   time.Time
	output  map[testID][]string // of what still runs
	lines   map[testID]string   // begun, but not ended by a newline yet
	figures []string
	// running are the packages that have started, and when.
	running map[string]time.Time
	// expected is how many packages will run, 0 if that is not known.
	expected int

	packages, passed, failed, skipped int
	failures                          []string
}

func newReport(out io.Writer) *report {
	return &report{out: out, began: time.Now(), output: map[testID][]string{}, lines: map[testID]string{}, running: map[string]time.Time{}}
}

// read reads all events, and prints at each tick what runs.
func (r *report) read(in io.Reader, tick <-chan time.Time) error {
	lines, failure := make(chan []byte), make(chan error, 1)
	go func() {
		defer close(lines)
		buffered := bufio.NewReader(in)
		for {
			line, err := buffered.ReadBytes('\n')
			if len(line) > 0 {
				lines <- line
			}
			if err != nil {
				failure <- err
				return
			}
		}
	}()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				if err := <-failure; !errors.Is(err, io.EOF) {
					return err
				}
				return nil
			}
			r.take(line)
		case now := <-tick:
			r.progress(now)
		}
	}
}

func (r *report) take(line []byte) {
	var e event
	if json.Unmarshal(line, &e) == nil {
		r.add(e)
		return
	}
	// Not of the test runner: a message of the go command itself.
	fmt.Fprintf(r.out, "%s", line)
}

// progress says what runs: a test may take minutes, and so may the linking before the first.
func (r *report) progress(now time.Time) {
	done := strconv.Itoa(r.packages)
	if r.expected > 0 {
		done += fmt.Sprintf(" of %d", max(r.expected, r.packages))
	}
	what := "linking tests"
	if len(r.running) > 0 {
		what = ""
		for _, pkg := range slices.Sorted(maps.Keys(r.running)) {
			what += fmt.Sprintf(", %s (%.0f s)", pkg, now.Sub(r.running[pkg]).Seconds())
		}
		what = "running" + strings.TrimPrefix(what, ",")
	}
	fmt.Fprintf(r.out, "      %s packages done; %s\n", done, what)
}

func (r *report) add(e event) {
	id := testID{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "start":
		r.running[e.Package] = time.Now()
	case "output":
		r.output[id] = append(r.output[id], e.Output)
		r.collectFigure(id, e.Output)
	case "pass", "skip", "fail":
		r.end(id, e)
	}
}

// collectFigure puts lines together: a line that is printed in pieces comes as several events.
func (r *report) collectFigure(id testID, output string) {
	line := r.lines[id] + output
	if !strings.HasSuffix(line, "\n") {
		r.lines[id] = line
		return
	}
	delete(r.lines, id)
	if strings.HasPrefix(line, figurePrefix) {
		r.figures = append(r.figures, strings.TrimSpace(line))
	}
}

func (r *report) end(id testID, e event) {
	if id.test != "" {
		r.endTest(id, e)
		return
	}
	defer delete(r.output, id)
	delete(r.running, id.pkg)
	// The action "skip" is that of a package without tests.
	switch e.Action {
	case "pass":
		r.packages++
		fmt.Fprintf(r.out, "ok    %-50s %6.1f s\n", id.pkg, e.Elapsed)
	case "fail":
		r.packages++
		fmt.Fprintf(r.out, "FAIL  %-50s %6.1f s\n", id.pkg, e.Elapsed)
		fmt.Fprint(r.out, strings.Join(r.output[id], ""))
		// A panic or a timeout ends a package in the middle of a test.
		for other, output := range r.output {
			if other.pkg == id.pkg && other.test != "" {
				r.fail(other, output)
				delete(r.output, other)
			}
		}
		r.failures = append(r.failures, id.pkg)
	}
}

func (r *report) endTest(id testID, e event) {
	switch e.Action {
	case "pass":
		r.passed++
		if e.Elapsed >= slowSeconds && !strings.Contains(id.test, "/") {
			fmt.Fprintf(r.out, "      %s %s %.1f s\n", id.pkg, id.test, e.Elapsed)
		}
	case "skip":
		r.skipped++
		fmt.Fprintf(r.out, "skip  %s %s\n", id.pkg, id.test)
	case "fail":
		r.fail(id, r.output[id])
	}
	delete(r.output, id)
}

func (r *report) fail(id testID, output []string) {
	r.failed++
	r.failures = append(r.failures, id.pkg+" "+id.test)
	fmt.Fprintf(r.out, "FAIL  %s %s\n%s", id.pkg, id.test, strings.Join(output, ""))
}

// finish prints the figures and the summary, and says whether all is well.
func (r *report) finish() bool {
	fmt.Fprintln(r.out)
	slices.Sort(r.figures)
	for _, figure := range slices.Compact(r.figures) {
		fmt.Fprintln(r.out, figure)
	}
	slices.Sort(r.failures)
	for _, failure := range r.failures {
		fmt.Fprintln(r.out, "failed:", failure)
	}
	fmt.Fprintf(r.out, "%d packages and %d tests run in %s: %d passed, %d failed, %d skipped.\n",
		r.packages, r.passed+r.failed+r.skipped, time.Since(r.began).Round(time.Second), r.passed, r.failed, r.skipped)
	return len(r.failures) == 0 && r.packages > 0
}
