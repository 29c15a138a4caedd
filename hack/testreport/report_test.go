// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
)

func TestReport(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in   string
		well bool
		want []string
		not  []string
	}{
		"all pass": {
			well: true,
			in: `{"Action":"output","Package":"p","Test":"TestA","Output":"noise\n"}
				{"Action":"output","Package":"p","Test":"TestA","Output":"figure: crash-points "}
				{"Action":"output","Package":"p","Test":"TestB","Output":"figure: b 1\n"}
				{"Action":"output","Package":"p","Test":"TestA","Output":"612\n"}
				{"Action":"pass","Package":"p","Test":"TestA","Elapsed":1}
				{"Action":"pass","Package":"p","Test":"TestB","Elapsed":1}
				{"Action":"pass","Package":"p","Elapsed":2}`,
			want: []string{"ok    p ", "\nfigure: b 1\nfigure: crash-points 612\n", "1 packages and 2 tests run", "2 passed, 0 failed"},
			not:  []string{"noise"},
		},
		"a test fails": {
			in: `{"Action":"output","Package":"p","Test":"TestA","Output":"want 1\n"}
				{"Action":"fail","Package":"p","Test":"TestA","Elapsed":1}
				{"Action":"fail","Package":"p","Elapsed":2}`,
			want: []string{"want 1\n", "failed: p TestA", "0 passed, 1 failed"},
		},
		"a test never ends": {
			in: `{"Action":"output","Package":"p","Test":"TestA","Output":"panic: test timed out\n"}
				{"Action":"fail","Package":"p","Elapsed":2}`,
			want: []string{"panic: test timed out", "failed: p TestA"},
		},
		"a package does not build": {
			in: `{"ImportPath":"p [p.test]","Action":"build-output","Output":"p.go:1:1: undefined: x\n"}
				{"ImportPath":"p [p.test]","Action":"build-fail"}
				{"Action":"fail","Package":"p","Elapsed":0,"FailedBuild":"p [p.test]"}`,
			want: []string{"undefined: x", "failed: p"},
		},
		"the go command complains": {in: "no such package\n", want: []string{"no such package", "0 packages and 0 tests"}},
		"nothing was run":          {in: `{"Action":"skip","Package":"p"}`, want: []string{"0 packages and 0 tests"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			r := newReport(&out)
			if err := r.read(strings.NewReader(c.in), nil); err != nil {
				t.Fatal(err)
			}
			if well := r.finish(); well != c.well {
				t.Errorf("all is well: %t, want %t", well, c.well)
			}
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is missing in\n%s", want, out.String())
				}
			}
			for _, not := range c.not {
				if strings.Contains(out.String(), not) {
					t.Errorf("%q is in\n%s", not, out.String())
				}
			}
		})
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	in, events := io.Pipe()
	tick, out := make(chan time.Time), &bytes.Buffer{}
	r := newReport(out)
	r.expected = 3
	ended := make(chan error, 1)
	go func() { ended <- r.read(in, tick) }()
	say := func(event string) {
		if _, err := io.WriteString(events, event+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	tick <- time.Now()
	say(`{"Action":"start","Package":"a"}`)
	say(`{"Action":"start","Package":"b"}`)
	say(`{"Action":"pass","Package":"a","Elapsed":1}`)
	say(`{"Action":"output","Package":"b","Output":"the events before this one have been taken"}`)
	tick <- time.Now().Add(time.Minute)
	if err := events.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0 of 3 packages done; linking tests\n", "1 of 3 packages done; running b (60 s)\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}
