// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// startTimeout bounds the start, the first build of a control plane included.
const startTimeout = 60 * time.Minute

// supervise runs the product until ctx is done. It is ready when the file with the variables is there.
func (s state) supervise(ctx context.Context) error {
	lock, err := s.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	progress, err := os.OpenFile(s.progressFile(), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer progress.Close()

	p := &installation{state: s, progress: indented{progress}}
	defer p.stop()
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := p.start(starting); err != nil {
		fmt.Fprintln(p.progress, err)
		return err
	}
	if err := s.publish(p.variables()); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// publish writes shell variables; no reader sees half of them.
func (s state) publish(variables [][2]string) error {
	var content strings.Builder
	for _, v := range variables {
		fmt.Fprintf(&content, "export %s='%s'\n", v[0], strings.ReplaceAll(v[1], "'", `'\''`))
	}
	partial := s.variables() + ".partial"
	if err := os.WriteFile(partial, []byte(content.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(partial, s.variables())
}

// indented begins lines with two spaces, as details of what was said before.
type indented struct{ io.Writer }

func (w indented) Write(p []byte) (int, error) {
	text := strings.TrimSuffix(string(p), "\n")
	_, err := io.WriteString(w.Writer, "  "+strings.ReplaceAll(text, "\n", "\n  ")+"\n")
	return len(p), err
}
