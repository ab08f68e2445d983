package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/execcast/execcast/core"
	"github.com/execcast/execcast/core/coretest"
)

// Vanish: viewers that disappear without a FIN. ClientCount is right again
// after two heartbeats, on connections that the adapter owns.
//
// The viewers run in a network namespace, from which a route then swallows
// everything. Where that cannot be made (it takes Linux, root and ip(8)), a
// proxy stops passing anything on instead; but its kernel still acknowledges
// what the server sends, so only missing pongs can tell.

type vanishJob struct {
	Targets  []target
	Names    []string // executions, of each target
	Viewers  int
	Proxied  bool
	NoBeats  bool // none will come
	Patience time.Duration
}

func runVanish(c *config) (err error) {
	ns, err := newNamespace()
	so := serverOptions{}
	how := "in a network namespace whose route goes nowhere"
	if err != nil {
		how = "behind a proxy that passes nothing on"
		c.printf("vanish: no network namespace: %v", err)
	} else {
		defer ns.remove()
		so.host = ns.host
	}
	o := core.Options{Heartbeat: c.heartbeat}
	if c.sabotage == "no-heartbeat" {
		o.Heartbeat = -1
	}
	r := registry(o)
	servers, targets, err := startAll(c.variants, r, so)
	if err != nil {
		return err
	}
	defer closeAll(servers)
	job := vanishJob{targets, names(c.variants, func(v variant) string { return v.name }), c.vanishing, ns == nil, c.sabotage == "no-heartbeat", c.patience}
	var p *peer
	if ns != nil {
		p, err = c.start("vanish", job, "ip", "netns", "exec", ns.name)
	} else {
		p, err = c.start("vanish", job)
	}
	if err != nil {
		return err
	}
	defer p.stop(&err)
	var problems []string
	if err := p.receive(&problems); err != nil {
		return fmt.Errorf("viewers: %w", err)
	}
	var ok checks
	for _, problem := range problems {
		ok.that(false, "connecting: %s", problem)
	}
	for _, name := range job.Names {
		n := r.ClientCount(name)
		ok.that(n == c.vanishing, "%s: %d clients of %d viewers that are there", name, n, c.vanishing)
	}
	if ns != nil {
		err = ns.silence()
	} else {
		err = p.send(true)
	}
	if err != nil {
		return err
	}
	start := time.Now()
	gone := map[string]time.Duration{}
	c.await(func() bool {
		found := true
		for _, v := range c.variants {
			if gone[v.name] == 0 && r.ClientCount(v.name) == 0 {
				gone[v.name] = time.Since(start)
			}
			found = found && (gone[v.name] > 0 || !vanishShows(v, ns != nil))
		}
		return found
	})
	for _, v := range c.variants {
		if after := gone[v.name]; after > 0 {
			c.figure("vanish", v.name, "%d viewers gone without a FIN, %s: ClientCount 0 after %.1f heartbeats",
				c.vanishing, how, float64(after)/float64(c.heartbeat))
			continue
		}
		left := r.ClientCount(v.name)
		c.figure("vanish", v.name, "%d viewers gone without a FIN, %s: %d still counted: it is for the kernel to find out",
			c.vanishing, how, left)
		ok.that(!vanishShows(v, ns != nil), "%s: %d viewers that have vanished are still counted", v.name, left)
	}
	return ok.err()
}

// vanishShows reports whether a variant can find out that viewers have gone
// silent, or unreachable.
func vanishShows(v variant, unreachable bool) bool {
	// On net/http with KeepHandler the connection is the server's, and how
	// long its kernel keeps on trying: a quarter of an hour.
	return v.transport == coretest.WebSocket || unreachable && v.name != "httpsse KeepHandler"
}

func watchVanish(ch *channel) error {
	var job vanishJob
	if err := ch.receive(&job); err != nil {
		return err
	}
	problems := make(chan string, len(job.Targets)*job.Viewers)
	var proxies []*proxy
	for i, t := range job.Targets {
		for range job.Viewers {
			addr := t.Addr
			if job.Proxied {
				p, err := newProxy(rand.New(rand.NewPCG(0, 0)), nil, 0)
				if err != nil {
					return err
				}
				p.target.Store(&t)
				proxies = append(proxies, p)
				addr = p.addr()
			}
			v, err := coretest.Connect(coretest.ViewerOptions{
				Transport: t.Transport, Addr: addr, ExecutionID: job.Names[i], Patience: job.Patience,
			})
			if err != nil {
				return err
			}
			go func() {
				// Two heartbeats show that it is alive, and that the server
				// still thinks so; then it goes on for as long as it can.
				for n := 0; n < 2 && !job.NoBeats; n++ {
					if err := v.Beat(); err != nil {
						problems <- job.Names[i] + ": " + err.Error()
						return
					}
				}
				problems <- ""
				v.All()
			}()
		}
	}
	var all []string
	for range len(job.Targets) * job.Viewers {
		if p := <-problems; p != "" && len(all) < 5 {
			all = append(all, p)
		}
	}
	ch.send(all)
	var freeze bool
	if err := ch.receive(&freeze); err != nil {
		return err
	}
	for _, p := range proxies {
		p.frozen.Store(true)
	}
	return ch.receive(&freeze) // until it is stopped
}

// namespace is a network namespace that is connected with this one.
type namespace struct {
	name string
	host string // this side's address
}

func newNamespace() (*namespace, error) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return nil, fmt.Errorf("it takes root on Linux")
	}
	id := rand.IntN(1 << 14)
	net := fmt.Sprintf("10.213.%d.%%d", id>>6)
	low := id & 63 << 2 // a network of two
	ns := &namespace{name: fmt.Sprintf("faults%d", id), host: fmt.Sprintf(net, low+1)}
	outside, inside := fmt.Sprintf("flto%d", id), fmt.Sprintf("flti%d", id)
	if err := ip("netns", "add", ns.name); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"link", "add", outside, "type", "veth", "peer", "name", inside, "netns", ns.name},
		{"addr", "add", ns.host + "/30", "dev", outside},
		{"link", "set", outside, "up"},
		{"-n", ns.name, "addr", "add", fmt.Sprintf(net, low+2) + "/30", "dev", inside},
		{"-n", ns.name, "link", "set", inside, "up"},
		{"-n", ns.name, "link", "set", "lo", "up"},
	} {
		if err := ip(args...); err != nil {
			ns.remove()
			return nil, err
		}
	}
	return ns, nil
}

// silence has everything that those inside send go nowhere, as when a phone
// has lost its network.
func (ns *namespace) silence() error {
	return ip("-n", ns.name, "route", "add", "blackhole", ns.host+"/32")
}

func (ns *namespace) remove() { ip("netns", "del", ns.name) }

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
