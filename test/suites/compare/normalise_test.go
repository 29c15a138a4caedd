// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var secretType = regexp.MustCompile(`"type":"([^"]*)"`)

// translate makes of a body for a Secret one for this kind.
func (k kind) translate(body string) string {
	if k == coreSecret {
		return body
	}
	body = strings.NewReplacer(
		`"apiVersion":"v1","kind":"Secret"`, `"apiVersion":"hsm.j5t.io/v1alpha1","kind":"HSMSecret"`,
		`"kind":"Secret"`, `"kind":"HSMSecret"`,
		`"path":"/type"`, `"path":"/spec/secretType"`,
	).Replace(body)
	return secretType.ReplaceAllString(body, `"spec":{"secretType":"$1"}`)
}

// asSecret makes of a text about this kind one about a Secret. Only a Secret has
// a protobuf form, which messages about media types therefore offer.
func (k kind) asSecret(text string) string {
	text = strings.ReplaceAll(text, ", application/vnd.kubernetes.protobuf", "")
	if k == coreSecret {
		return strings.ReplaceAll(text, "/v1, Kind=Secret", "v1, Kind=Secret")
	}
	return strings.NewReplacer(
		"hsmsecrets.hsm.j5t.io", "secrets",
		"HSMSecret.hsm.j5t.io", "Secret",
		"HSMSecret", "Secret",
		"hsmsecrets", "secrets",
		"hsm.j5t.io/v1alpha1", "v1",
		`version "v1alpha1"`, `version "v1"`,
		"*hsm.", "*core.",
		`API group "hsm.j5t.io"`, `API group ""`,
		"spec.secretType", "type",
	).Replace(text)
}

// changing is what a message may contain that is never twice the same: uids,
// versions, keys in the store, generated names.
var changing = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?i:version): \d+|current: \d+|\(\d+\)|Key: [^,]+|(gen-|Gen_|g{58})[a-z0-9]{5}`)

// normalise takes from an answer what differs between any two objects, and what
// has to differ between a Secret and an HSMSecret:
//
//	apiVersion, kind, resource, group   are the API's
//	spec, but for its secretType        an HSMSecret has more to say
//	metadata.generation, status         a Secret has none, as it has no spec
//	columns and cells of tables         each kind shows its own
//
// A resourceVersion of an object becomes its place in the order of all that the
// row has seen, that of a list or bookmark, which also moves by writes of other
// objects, a word.
func (s *session) normalise(got answer) answer {
	n := normaliser{kind: s.kind, order: map[string]string{}}
	visit([]any{got.Body, got.Events, got.After}, n.collect)
	n.versions = append(n.versions, s.resourceVersions...)
	n.rank()
	if s.unordered {
		for version := range n.order {
			n.order[version] = "<version>"
		}
	}
	got.Body = n.value(got.Body)
	got.After = n.value(got.After)
	for i, event := range got.Events {
		got.Events[i] = n.value(event)
	}
	return got
}

type normaliser struct {
	kind     kind
	versions []string
	order    map[string]string
}

// collect takes the resourceVersions of objects.
func (n *normaliser) collect(object map[string]any) {
	if _, ok := object["uid"]; ok {
		if version, ok := object["resourceVersion"].(string); ok {
			n.versions = append(n.versions, version)
		}
	}
}

func (n *normaliser) rank() {
	slices.SortFunc(n.versions, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	for i, version := range slices.Compact(n.versions) {
		n.order[version] = "<version " + strconv.Itoa(i+1) + ">"
	}
}

func (n *normaliser) value(value any) any {
	switch value := value.(type) {
	case string:
		return changing.ReplaceAllString(n.kind.asSecret(value), "<changing>")
	case []any:
		for i := range value {
			value[i] = n.value(value[i])
		}
	case map[string]any:
		return n.object(value)
	}
	return value
}

func (n *normaliser) object(object map[string]any) any {
	out := map[string]any{}
	for name, value := range object {
		switch name {
		case "creationTimestamp", "deletionTimestamp", "time":
			if value != nil {
				value = "<time>"
			}
		case "uid":
			value = "<uid>"
		case "continue":
			if value != "" {
				value = "<token>"
			}
		case "resourceVersion":
			if _, ok := object["uid"]; ok {
				value = n.order[value.(string)]
			} else if value != "" {
				value = "<version>"
			}
		case "name":
			if prefix, ok := object["generateName"].(string); ok && strings.HasPrefix(value.(string), prefix) {
				value = prefix + "<random>"
			}
		case "columnDefinitions", "cells":
			value = "<its own>"
		case "generation", "f:spec", "f:type":
			continue
		case "group":
			if n.kind == hsmSecret && value == "hsm.j5t.io" {
				continue
			}
		case "spec":
			if spec, ok := value.(map[string]any); ok && isObject(object) {
				if secretType, ok := spec["secretType"]; ok {
					out["type"] = secretType
				}
				continue
			}
		case "status":
			if _, ok := value.(map[string]any); ok {
				continue
			}
		}
		out[name] = n.value(value)
	}
	return out
}

func isObject(object map[string]any) bool {
	_, ok := object["metadata"]
	return ok
}

// visit calls a function for each object in a value.
func visit(value any, do func(map[string]any)) {
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			visit(item, do)
		}
	case map[string]any:
		do(value)
		for _, field := range value {
			visit(field, do)
		}
	}
}
