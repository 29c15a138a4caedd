// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args  []string
		wrong []string
	}{
		{nil, nil},
		{[]string{"--namespaces=a,b", "--leader-elect=false", "--kube-api-qps=0.5", "--certificates=cert-manager"}, nil},
		{[]string{"--namespaces=a,B", "--system-namespace=x/y", "--kube-api-qps=0", "--kube-api-burst=0", "--concurrency=-1", "--certificates=", "--listen-address="},
			[]string{`--namespaces "B"`, `--system-namespace "x/y"`, "--kube-api-qps 0", "--kube-api-burst 0", "--concurrency -1", `--certificates ""`, "--listen-address"}},
	} {
		o := NewOptions()
		fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
		o.AddFlags(fs)
		if err := fs.Parse(c.args); err != nil {
			t.Fatal(err)
		}
		err := o.Validate()
		if (err == nil) != (c.wrong == nil) {
			t.Errorf("%v: %v", c.args, err)
		}
		for _, part := range c.wrong {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%v: %q is missing in: %v", c.args, part, err)
			}
		}
	}
}
