// SPDX-License-Identifier: Apache-2.0

// Package compare makes the same API calls on core Secrets and on HSMSecrets,
// through one real kube-apiserver, and compares the answers (law 8). It owns the
// table of the calls and the list of wanted differences. It has no opinion of its
// own on what is right: the core Secret has.
package compare

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"j5t.io/hsm/test/framework/cluster"
	"j5t.io/hsm/test/framework/suite"
)

// hsm is the cluster that all rows share; each works in a namespace of its own.
var hsm *cluster.Cluster

func TestMain(m *testing.M) { suite.Main(m, setUp) }

func setUp(ctx context.Context, s *suite.Suite) (err error) {
	// No controllers: nobody but the calls changes anything.
	if hsm, err = s.StartCluster(ctx, cluster.Options{}); err != nil {
		return err
	}
	return prepare(ctx)
}

// rights are what each user may do with Secrets and HSMSecrets alike, as flags of
// kubectl create clusterrole. Any other user may do nothing.
var rights = map[string][]string{
	"reader":    {"--verb=get,list,watch"},
	"getter":    {"--verb=get"},
	"getter-a":  {"--verb=get,update,patch,delete", "--resource-name=a"},
	"lister-a":  {"--verb=list,watch", "--resource-name=a"},
	"watcher":   {"--verb=watch"},
	"creator":   {"--verb=create"},
	"updater":   {"--verb=update"},
	"patcher":   {"--verb=patch"},
	"applier":   {"--verb=patch,create"},
	"deleter":   {"--verb=delete"},
	"collector": {"--verb=deletecollection"},
	"blind":     {"--verb=get,list,watch"},
}

// prepare gives the users their rights. All but one may also see values.
func prepare(ctx context.Context) error {
	kubectl := hsm.Kubectl(hsm.AdminKubeconfig)
	values := []string{"create", "clusterrolebinding", "values", "--clusterrole=values"}
	for user, flags := range rights {
		args := append([]string{"create", "clusterrole", user, "--resource=secrets,hsmsecrets.hsm.j5t.io"}, flags...)
		if _, _, err := kubectl.Run(ctx, args...); err != nil {
			return err
		}
		if _, _, err := kubectl.Run(ctx, "create", "clusterrolebinding", user, "--clusterrole="+user, "--user="+user); err != nil {
			return err
		}
		if user != "blind" {
			values = append(values, "--user="+user)
		}
	}
	if _, _, err := kubectl.Run(ctx, "create", "clusterrole", "values", "--verb=get", "--resource=hsmsecrets.hsm.j5t.io/data"); err != nil {
		return err
	}
	_, _, err := kubectl.Run(ctx, values...)
	return err
}

// TestCompare makes each call of the table on a Secret and on an HSMSecret. A
// difference fails it unless the row, or the list for all rows, says why it is
// wanted; and so does a wanted difference that is not there.
func TestCompare(t *testing.T) {
	client, err := rest.HTTPClientFor(hsm.Admin)
	if err != nil {
		t.Fatal(err)
	}
	rows := table()
	unexplained, made := make([][]string, len(rows)), make([]bool, len(rows))
	t.Run("table", func(t *testing.T) {
		for i, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				t.Parallel()
				namespace := fmt.Sprintf("row-%d", i)
				admin := session{client: client}
				admin.mustDo(t, post("/api/v1/namespaces", `{"metadata":{"name":"`+namespace+`"}}`))
				core := row.run(t, &session{client: client, kind: coreSecret, namespace: namespace, unordered: row.unordered})
				ours := row.run(t, &session{client: client, kind: hsmSecret, namespace: namespace, unordered: row.unordered})
				var unseen []string
				unexplained[i], unseen = row.differs.explain(compare(core, ours))
				made[i] = true
				if len(unexplained[i]) > 0 {
					t.Errorf("%s differs:\n  %s", row.call, strings.Join(unexplained[i], "\n  "))
				}
				if len(unseen) > 0 {
					t.Errorf("%s no longer differs in %s: take it from the table", row.call, strings.Join(unseen, ", "))
				}
			})
		}
	})
	calls, count := 0, 0
	for i := range rows {
		if made[i] {
			calls++
		}
		count += len(unexplained[i])
	}
	fmt.Printf("figure: compare-calls %d\n", calls)
	fmt.Printf("figure: compare-unexplained %d\n", count)
}
