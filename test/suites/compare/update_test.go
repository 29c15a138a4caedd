// SPDX-License-Identifier: Apache-2.0

package compare

import "fmt"

// changed is an update of a.
func changed(metadata string) string { return secret("a", metadata, `"data":{"k":"dw=="}`) }

var immutable = create(secret("a", "", `"immutable":true,"data":{"k":"dg=="}`))

var updateRows = []row{
	{name: "update", given: given(a), call: put("/a", changed(`"resourceVersion":"$rv"`))},
	{name: "update unconditionally", given: given(a), call: put("/a", changed(""))},
	{name: "update of nothing", given: given(a), call: put("/a", secret("a", `"resourceVersion":"$rv"`))},
	{name: "update of an old version", given: given(a, merge("/a", `{"data":{"k":"dw=="}}`)), call: put("/a", secret("a", `"resourceVersion":"$rv1"`))},
	{name: "update of a future version", given: given(a), call: put("/a", changed(`"resourceVersion":"$future"`))},
	{name: "update of a version that is none", given: given(a), call: put("/a", changed(`"resourceVersion":"x"`))},
	{name: "update of version 0", given: given(a), call: put("/a", changed(`"resourceVersion":"0"`))},
	{name: "update what is not there", call: put("/a", secret("a", ""))},
	{name: "update of a version of what is not there", call: put("/a", secret("a", `"resourceVersion":"12"`))},
	{name: "update with its uid", given: given(a), call: put("/a", changed(`"uid":"$uid"`))},
	{name: "update with another uid", given: given(a), call: put("/a", changed(`"uid":"c2d1f0f4-0000-4000-8000-000000000000"`))},
	{name: "update with another name", given: given(a), call: put("/a", secret("b", ""))},
	{name: "update without a name", given: given(a), call: put("/a", secret("", ""))},
	{name: "update with another namespace", given: given(a), call: put("/a", changed(`"namespace":"default"`))},
	{name: "update with the namespace", given: given(a), call: put("/a", changed(`"namespace":"$ns"`))},
	{name: "update with another creationTimestamp", given: given(a), call: put("/a", changed(`"creationTimestamp":"2001-02-03T04:05:06Z"`))},
	{name: "update with a deletionTimestamp", given: given(a), call: put("/a", changed(`"deletionTimestamp":"2001-02-03T04:05:06Z"`))},
	{name: "update with a generation", given: given(a), call: put("/a", changed(`"generation":7`))},
	{name: "update with an empty body", given: given(a), call: put("/a", "")},
	{name: "update with another kind", given: given(a), call: put("/a", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`), differs: onlyItsKind},
	{name: "update without kind and apiVersion", given: given(a), call: put("/a", `{"metadata":{"name":"a"},"data":{"k":"dw=="}}`)},
	{name: "update with stringData", given: given(a), call: put("/a", secret("a", "", `"stringData":{"k":"w"}`))},
	{name: "update without data", given: given(a), call: put("/a", secret("a", "", `"immutable":false`))},
	{name: "update of the type", given: given(a), call: put("/a", secret("a", "", `"type":"example.com/t"`)), differs: saysNoValue},
	{name: "update with an empty type", given: given(create(secret("a", "", `"type":"example.com/t"`))), call: put("/a", secret("a", "", `"data":{"k":"dg=="}`)), differs: saysNoValue},
	{name: "update to what is invalid", given: given(a), call: put("/a", secret("a", "", `"data":{"a b":"dg=="}`))},
	{name: "update, dry run", given: given(a), call: put("/a?dryRun=All", changed(""))},
	{name: "update, dry run of some", given: given(a), call: put("/a?dryRun=Some", changed(""))},
	{name: "update with an unknown field, strict", given: given(a), call: put("/a?fieldValidation=Strict", unknownField)},
	{name: "update with an unknown field", given: given(a), call: put("/a", unknownField)},
	{name: "update with a field manager", given: given(a), call: put("/a?fieldManager=me", changed(""))},
	{name: "update with a field manager that is too long", given: given(a), call: put("/a?fieldManager="+fmt.Sprintf("%0129d", 0), changed(""))},
	{name: "update that takes managedFields away", given: given(a), call: put("/a", changed(`"managedFields":[{}]`))},
	{name: "update with managedFields that are none", given: given(a), call: put("/a", changed(`"managedFields":[{"operation":"Delete"}]`))},
	{name: "update the collection", given: given(a), call: put("", changed(""))},

	{name: "update of an immutable", given: given(immutable), call: put("/a", changed("")), differs: saysMore},
	{name: "update of an immutable, stays so", given: given(immutable), call: put("/a", secret("a", "", `"immutable":true,"data":{"k":"dw=="}`)), differs: saysMore},
	{name: "update of an immutable's labels", given: given(immutable), call: put("/a", secret("a", `"labels":{"app":"x"}`, `"immutable":true,"data":{"k":"dg=="}`))},
	{name: "update to immutable", given: given(a), call: put("/a", secret("a", "", `"immutable":true,"data":{"k":"dw=="}`))},
	{name: "update of an immutable with stringData", given: given(immutable), call: put("/a", secret("a", "", `"immutable":true,"data":{"k":"dg=="},"stringData":{"l":"w"}`)), differs: saysMore},
	{name: "delete an immutable", given: given(immutable), call: del("/a")},

	{name: "update that adds a finalizer", given: given(a), call: put("/a", changed(`"finalizers":["example.com/f"]`))},
	{name: "update that adds a finalizer that is none", given: given(a), call: put("/a", changed(`"finalizers":["f"]`))},
	{name: "update that adds a finalizer during deletion", given: given(finalized, del("/a")), call: put("/a", changed(`"finalizers":["example.com/f","example.com/g"]`))},
	{name: "update during deletion", given: given(finalized, del("/a")), call: put("/a", changed(`"finalizers":["example.com/f"]`))},
	{name: "update that removes the last finalizer", given: given(finalized, del("/a")), call: put("/a", changed(""))},
	{name: "update that removes the last finalizer, dry run", given: given(finalized, del("/a")), call: put("/a?dryRun=All", changed(""))},
	{name: "update that removes one finalizer of two", given: given(create(secret("a", `"finalizers":["example.com/f","example.com/g"]`)), del("/a")), call: put("/a", changed(`"finalizers":["example.com/g"]`))},
	{name: "update that removes an owner", given: given(owner(`,"uid":"u"`)), call: put("/a", changed(""))},
}
