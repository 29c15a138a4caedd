// SPDX-License-Identifier: Apache-2.0

package behaviour

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// proxy stands between a controller and kube-apiserver. It passes requests on
// with the rights of one user, counts them, and can cut in.
type proxy struct {
	server *httptest.Server
	// kubeconfig is for who is to go through the proxy.
	kubeconfig string

	mu    sync.Mutex
	calls map[call]int
	// slow is about what the slowest of the last requests took.
	slow  time.Duration
	cutIn func(call, http.ResponseWriter, *http.Request, http.Handler)
}

// call is what a request asks for.
type call struct {
	method, resource, namespace string
}

func (c call) String() string { return c.method + " " + c.resource }

// writes reports whether it may change something.
func (c call) writes() bool { return c.method != http.MethodGet && c.method != "WATCH" }

// newProxy is for the user of a kubeconfig; dir takes the kubeconfig to use.
func newProxy(dir, kubeconfig string) (*proxy, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, err
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		return nil, err
	}
	p := &proxy{calls: map[call]int{}}
	forward := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1, // Watches.
		ErrorLog:      log.New(io.Discard, "", 0),
		// What is cut off is what the tests are about.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := callOf(r)
		p.mu.Lock()
		p.calls[c]++
		cutIn := p.cutIn
		p.mu.Unlock()
		began := time.Now()
		if cutIn != nil {
			cutIn(c, w, r, forward)
		} else {
			forward.ServeHTTP(w, r)
		}
		if c.method != "WATCH" {
			p.took(time.Since(began))
		}
	}))
	p.kubeconfig = filepath.Join(dir, "proxy-"+filepath.Base(kubeconfig))
	err = clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"proxy": {Server: p.server.URL}},
		Contexts:       map[string]*clientcmdapi.Context{"proxy": {Cluster: "proxy"}},
		CurrentContext: "proxy",
	}, p.kubeconfig)
	return p, err
}

func (p *proxy) stop() {
	p.server.CloseClientConnections()
	p.server.Close()
	_ = os.Remove(p.kubeconfig)
}

func (p *proxy) took(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slow = max(d, p.slow-p.slow/50)
}

// quietTime is for how long there has to be no request until all is taken to be done: at
// least so long, and much longer than a request takes on this machine.
func (p *proxy) quietTime(least time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(least, 5*p.slow)
}

// interrupt has a function handle all requests; nil passes them on again.
func (p *proxy) interrupt(cutIn func(call, http.ResponseWriter, *http.Request, http.Handler)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutIn = cutIn
}

// count sums up the calls so far that a function selects.
func (p *proxy) count(selects func(call) bool) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for c, times := range p.calls {
		if selects(c) {
			n += times
		}
	}
	return n
}

// since lists the calls that were made since an earlier snapshot, for messages.
func (p *proxy) since(before map[call]int) string {
	var b strings.Builder
	for c, n := range p.snapshot() {
		if n > before[c] {
			fmt.Fprintf(&b, "%d × %s in %q; ", n-before[c], c, c.namespace)
		}
	}
	return b.String()
}

func (p *proxy) snapshot() map[call]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	calls := map[call]int{}
	for c, n := range p.calls {
		calls[c] = n
	}
	return calls
}

// callOf reads /api/v1/namespaces/NS/secrets/NAME and the like.
func callOf(r *http.Request) call {
	c := call{method: r.Method}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	skip := 2 // api, v1
	if parts[0] == "apis" {
		skip = 3 // apis, GROUP, VERSION
	}
	parts = parts[min(skip, len(parts)):]
	if len(parts) >= 2 && parts[0] == "namespaces" {
		c.namespace, parts = parts[1], parts[2:]
	}
	if len(parts) > 0 {
		c.resource = parts[0]
	}
	if len(parts) > 2 {
		c.resource += "/" + parts[2]
	}
	switch watch := r.URL.Query().Get("watch"); {
	case watch == "true" || watch == "1":
		c.method = "WATCH"
	case c.method == http.MethodGet && len(parts) < 2:
		c.method = "LIST"
	}
	return c
}
