// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// row is one call, made on both kinds.
type row struct {
	name string
	// given are calls that must succeed, made first.
	given []call
	call  call
	// during are calls made while a watch is open. It is read until an object
	// with the label last appears, or until the server ends it.
	during []call
	// unordered: the call changes several objects at the same time, each of which gets
	// a version. kube-apiserver does so too, with --delete-collection-workers above 1.
	unordered bool
	differs   differences
}

// call is a request, written for a core Secret. These words are replaced in it:
//
//	$ns                the namespace of the row
//	$rv, $uid          of the object in the last answer
//	$rv1, $uid1, ...   of the object in the first answer, and so on
//	$continue          the token in the last list
//	$future            a resourceVersion that has not been reached
type call struct {
	method string
	// path is below the collection of Secrets in the namespace, unless it begins with /api.
	path   string
	body   string
	header http.Header
}

func (c call) String() string { return c.method + " " + c.path }

// with adds a header.
func (c call) with(header, value string) call {
	c.header = c.header.Clone()
	if c.header == nil {
		c.header = http.Header{}
	}
	c.header.Add(header, value)
	return c
}

// accepting asks for a media type.
func (c call) accepting(mediaType string) call { return c.with("Accept", mediaType) }

// as makes the call as another user.
func (c call) as(user string) call { return c.with("Impersonate-User", user) }

func request(method, path, body, contentType string) call {
	c := call{method: method, path: path, body: body}
	if contentType != "" {
		c = c.with("Content-Type", contentType)
	}
	return c
}

const (
	jsonType      = "application/json"
	jsonPatch     = "application/json-patch+json"
	mergePatch    = "application/merge-patch+json"
	strategic     = "application/strategic-merge-patch+json"
	applyPatch    = "application/apply-patch+yaml"
	tableType     = "application/json;as=Table;v=v1;g=meta.k8s.io"
	metadataOnly  = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	metadataLists = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
)

func get(path string) call           { return request(http.MethodGet, path, "", "") }
func del(path string) call           { return request(http.MethodDelete, path, "", "") }
func delWith(path, body string) call { return request(http.MethodDelete, path, body, jsonType) }
func post(path, body string) call    { return request(http.MethodPost, path, body, jsonType) }
func create(body string) call        { return post("", body) }
func put(path, body string) call     { return request(http.MethodPut, path, body, jsonType) }
func patch(path, mediaType, body string) call {
	return request(http.MethodPatch, path, body, mediaType)
}
func merge(path, body string) call { return patch(path, mergePatch, body) }

// apply is a server-side apply.
func apply(path, body string) call { return patch(path, applyPatch, body) }

func watch(query string) call { return get("?watch=true&" + query) }

func given(calls ...call) []call  { return calls }
func during(calls ...call) []call { return calls }

// secret is a manifest: further fields of metadata and of the object are JSON.
func secret(name, metadata string, fields ...string) string {
	if metadata != "" {
		metadata = "," + metadata
	}
	if len(fields) == 0 {
		fields = []string{`"data":{"k":"dg=="}`}
	}
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":%q%s},%s}`, name, metadata, strings.Join(fields, ","))
}

// labelled is a Secret with a label.
func labelled(name, label string) string {
	return secret(name, fmt.Sprintf(`"labels":{%q:"x"}`, label))
}

// a is the Secret that most rows are about.
var a = create(secret("a", ""))

// last ends a watch.
var last = create(labelled("z", "last"))

// run makes the calls of the row on one kind.
func (r row) run(t *testing.T, s *session) answer {
	t.Helper()
	for _, c := range r.given {
		s.mustDo(t, c)
	}
	// A list of now waits for kube-apiserver's watch cache, which answers some calls.
	s.mustDo(t, get(""))
	if len(r.during) > 0 || strings.Contains(r.call.path, "watch") {
		return s.after(t, s.watch(t, r.call, r.during))
	}
	return s.after(t, s.do(t, r.call))
}
