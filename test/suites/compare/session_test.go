// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// kind is what the calls of a session are about.
type kind int

const (
	coreSecret kind = iota
	hsmSecret
)

func (k kind) String() string {
	if k == hsmSecret {
		return "HSMSecret"
	}
	return "Secret"
}

// session makes the calls of a row on one kind.
type session struct {
	client    *http.Client
	kind      kind
	namespace string
	// resourceVersions and uids are those of the objects in the answers, in order.
	resourceVersions, uids []string
	continueToken          string
	// unordered: the order in which the objects were changed says nothing.
	unordered bool
}

// answer is all that is compared of an answer.
type answer struct {
	Code   int
	Header map[string][]string
	Body   any `json:",omitempty"`
	// Events of a watch, and whether the server has ended it.
	Events []any `json:",omitempty"`
	Ended  bool  `json:",omitempty"`
	// After is what is there afterwards.
	After any
}

// headers are those that are compared.
var headers = []string{"Content-Type", "Content-Encoding", "Retry-After", "Warning", "Cache-Control", "Allow"}

// watchDeadline is when a watch that has not shown what it should is given up.
const watchDeadline = 5 * time.Minute

func (s *session) mustDo(t *testing.T, c call) answer {
	t.Helper()
	got := s.do(t, c)
	if got.Code >= 300 {
		t.Fatalf("%s: %s: %d: %v", s.kind, c, got.Code, got.Body)
	}
	return got
}

func (s *session) do(t *testing.T, c call) answer {
	t.Helper()
	response := s.send(t.Context(), t, c)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s: %s: %v", s.kind, c, err)
	}
	got := s.answer(response)
	got.Body = s.decode(body, response.Header.Get("Content-Type"))
	return got
}

// watch reads events while other calls are made.
func (s *session) watch(t *testing.T, c call, during []call) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), watchDeadline)
	defer cancel()
	response := s.send(ctx, t, c)
	defer response.Body.Close()
	got := s.answer(response)
	if response.StatusCode != http.StatusOK {
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatalf("%s: %s: %v", s.kind, c, err)
		}
		got.Body = s.decode(body, response.Header.Get("Content-Type"))
		return got
	}
	for _, c := range during {
		s.mustDo(t, c)
	}
	decoder := json.NewDecoder(response.Body)
	decoder.UseNumber()
	for {
		var event any
		err := decoder.Decode(&event)
		if err == io.EOF {
			got.Ended = true
			return got
		}
		if err != nil {
			t.Fatalf("%s: %s: after %d events: %v", s.kind, c, len(got.Events), err)
		}
		if n := len(got.Events); n > 0 && isPlainBookmark(got.Events[n-1]) {
			got.Events = got.Events[:n-1] // Between which events they come is a matter of time.
		}
		got.Events = append(got.Events, event)
		s.learn(event)
		if hasLabelLast(event) {
			return got
		}
	}
}

// after adds to an answer what is there now, and normalises it.
func (s *session) after(t *testing.T, got answer) answer {
	t.Helper()
	got.After = s.mustDo(t, get("")).Body
	return s.normalise(got)
}

func (s *session) send(ctx context.Context, t *testing.T, c call) *http.Response {
	t.Helper()
	path := c.path
	if !strings.HasPrefix(path, "/api") {
		path = "/api/v1/namespaces/$ns/secrets" + path
	}
	if s.kind == hsmSecret && strings.Contains(path, "/secrets") {
		path = strings.Replace(path, "/api/v1/", "/apis/hsm.j5t.io/v1alpha1/", 1)
		path = strings.Replace(path, "/secrets", "/hsmsecrets", 1)
	}
	request, err := http.NewRequestWithContext(ctx, c.method, hsm.URL+s.fill(path), strings.NewReader(s.fill(s.kind.translate(c.body))))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range c.header {
		request.Header[name] = values
	}
	response, err := s.client.Do(request)
	if err != nil {
		t.Fatalf("%s: %s: %v", s.kind, c, err)
	}
	return response
}

func (s *session) answer(response *http.Response) answer {
	got := answer{Code: response.StatusCode, Header: map[string][]string{}}
	for _, name := range headers {
		for _, value := range slices.Compact(response.Header.Values(name)) { // kube-apiserver repeats what it proxies.
			got.Header[name] = append(got.Header[name], s.kind.asSecret(value))
		}
	}
	return got
}

// decode gives JSON as what it means, and anything else as text.
func (s *session) decode(body []byte, contentType string) any {
	if !strings.HasPrefix(contentType, jsonType) {
		if strings.HasPrefix(contentType, "text/plain") {
			return s.kind.asSecret(string(body))
		}
		return "not shown: " + contentType
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var decoded any
	if err := decoder.Decode(&decoded); err != nil {
		return "not JSON: " + string(body)
	}
	s.learn(decoded)
	return decoded
}

// learn remembers what later calls may refer to.
func (s *session) learn(decoded any) {
	object, _ := decoded.(map[string]any)
	if event, ok := object["object"].(map[string]any); ok && object["type"] != "BOOKMARK" {
		object = event
	}
	metadata, _ := object["metadata"].(map[string]any)
	if token, ok := metadata["continue"].(string); ok {
		s.continueToken = token
	}
	if uid, ok := metadata["uid"].(string); ok {
		s.uids = append(s.uids, uid)
		version, _ := metadata["resourceVersion"].(string)
		s.resourceVersions = append(s.resourceVersions, version)
	}
}

// fill replaces the words that a call may contain.
func (s *session) fill(text string) string {
	words := []string{"$ns", s.namespace, "$continue", s.continueToken}
	for i, version := range s.resourceVersions {
		words = append(words, "$rv"+strconv.Itoa(i+1), version, "$uid"+strconv.Itoa(i+1), s.uids[i])
	}
	if n := len(s.uids); n > 0 {
		words = append(words, "$rv", s.resourceVersions[n-1], "$uid", s.uids[n-1])
	}
	return strings.NewReplacer(append(words, "$future", "9000000000000000000")...).Replace(text)
}

// isPlainBookmark reports whether it is a bookmark that only says how far the watch has come.
func isPlainBookmark(event any) bool {
	fields := event.(map[string]any)
	text, err := json.Marshal(fields["object"])
	return err == nil && fields["type"] == "BOOKMARK" && !bytes.Contains(text, []byte("initial-events-end"))
}

func hasLabelLast(event any) bool {
	found := false
	visit(event, func(object map[string]any) {
		if labels, ok := object["labels"].(map[string]any); ok {
			_, has := labels["last"]
			found = found || has
		}
	})
	return found
}
