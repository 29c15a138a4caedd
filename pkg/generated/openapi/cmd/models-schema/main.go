// SPDX-License-Identifier: Apache-2.0

// Command models-schema prints the OpenAPI v2 models of the API types. The
// generator of the apply configurations reads them; nothing else does.
package main

import (
	"encoding/json"
	"log"
	"os"

	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"j5t.io/hsm/pkg/generated/openapi"
)

func main() {
	definitions := spec.Definitions{}
	for name, definition := range openapi.GetOpenAPIDefinitions(reference) {
		// A type may carry another schema for OpenAPI v2.
		if v2, ok := definition.Schema.Extensions[common.ExtensionV2Schema].(spec.Schema); ok {
			definitions[name] = v2
			continue
		}
		definitions[name] = definition.Schema
	}
	swagger := spec.Swagger{SwaggerProps: spec.SwaggerProps{
		Swagger:     "2.0",
		Definitions: definitions,
		Info:        &spec.Info{InfoProps: spec.InfoProps{Title: "hsm.j5t.io", Version: "unversioned"}},
	}}
	if err := json.NewEncoder(os.Stdout).Encode(swagger); err != nil {
		log.Fatal(err)
	}
}

func reference(name string) spec.Ref {
	return spec.MustCreateRef("#/definitions/" + name)
}
