// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// differences are the wanted ones: a place in the answer, and the reason. What
// lies below the place may differ too. The place "message" is every message.
type differences map[string]string

// The wanted differences that several rows have.
var (
	saysMore    = differences{"message": "an HSMSecret's message also says why, or what to do"}
	saysObject  = differences{"message": "it shows the object or the body, which are not the same"}
	saysNoValue = differences{"message": "the rule is a tag of the type, and those do not repeat the value"}
	onlyItsKind = differences{"message": "the server of HSMSecrets knows no other kinds"}
	otherRight  = "names and values of an HSMSecret have separate rights"
	noTokens    = "Kubernetes itself writes tokens of ServiceAccounts, so there are none as HSMSecrets"
	noProtobuf  = "as a custom resource, an HSMSecret has no protobuf form"
	notBehind   = differences{
		"Body.details.retryAfterSeconds": "a watch cache may catch up, so its clients are to wait; an agent is not behind",
		"Header.Retry-After":             "a watch cache may catch up, so its clients are to wait; an agent is not behind",
	}
	clientsMistake = differences{
		"Code": "the watch cache answers 500 to a client's mistake; the storage below it would answer as here",
		"Body": "the watch cache answers 500 to a client's mistake; the storage below it would answer as here",
	}
)

// compare gives the places in which two answers differ.
func compare(core, ours answer) map[string]string {
	a, b := flat(core), flat(ours)
	found := map[string]string{}
	for place := range maps.Keys(a) {
		if a[place] != b[place] {
			found[place] = fmt.Sprintf("%s: Secret %s, HSMSecret %s", place, shown(a, place), shown(b, place))
		}
	}
	for place := range maps.Keys(b) {
		if _, ok := a[place]; !ok {
			found[place] = fmt.Sprintf("%s: Secret nothing, HSMSecret %s", place, b[place])
		}
	}
	return found
}

func shown(places map[string]string, place string) string {
	if value, ok := places[place]; ok {
		return value
	}
	return "nothing"
}

// explain sorts out the wanted differences; unseen are those that are not there.
func (d differences) explain(found map[string]string) (unexplained, unseen []string) {
	seen := map[string]bool{}
	for _, place := range slices.Sorted(maps.Keys(found)) {
		explained := false
		for wanted := range d {
			if place == wanted || strings.HasPrefix(place, wanted+".") || strings.HasPrefix(place, wanted+"[") ||
				wanted == "message" && strings.HasSuffix(place, ".message") {
				explained, seen[wanted] = true, true
			}
		}
		if !explained {
			unexplained = append(unexplained, found[place])
		}
	}
	for wanted := range d {
		if !seen[wanted] {
			unseen = append(unseen, wanted)
		}
	}
	return unexplained, unseen
}

// flat gives each value in an answer by its place.
func flat(got answer) map[string]string {
	text, err := json.Marshal(got)
	if err != nil {
		panic(err)
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		panic(err)
	}
	places := map[string]string{}
	flatten("", value, places)
	return places
}

func flatten(place string, value any, places map[string]string) {
	switch value := value.(type) {
	case map[string]any:
		if len(value) == 0 {
			places[place] = "{}"
		}
		for name, field := range value {
			flatten(strings.TrimPrefix(place+"."+name, "."), field, places)
		}
	case []any:
		if len(value) == 0 {
			places[place] = "[]"
		}
		for i, item := range value {
			flatten(fmt.Sprintf("%s[%d]", place, i), item, places)
		}
	default:
		places[place] = fmt.Sprintf("%.300q", fmt.Sprint(value))
	}
}
