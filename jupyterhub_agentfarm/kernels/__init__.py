"""Warm kernels: Python kernels that are forked from a process which has imported what they need.

A cold kernel spends most of its start importing. At its first kernel a server starts a *zygote*, an ordinary Python of
the server's own interpreter, account, environment and limits, which imports ipykernel and then, while nobody waits,
the libraries that :attr:`~.warm.WarmKernels.preload` names. A server that was forked itself is born with one, whose
imports are done (:mod:`.inborn`). Each kernel is a fork of it::

    server (provisioner)                zygote                        kernel
      | one byte, four descriptors  ---->  |
      |                                  fork  ------------------------> |
      | <---- {"pid": 4711}, its pidfd ----|                          waits
      | arguments, environment, directory -----------------------------> |
      |                                    |                          becomes a kernel
      | <------------------- {"bound": true} --------------------------- |
      | <---- {"exit": -9} ----------------|                             X

The first of the four descriptors is the kernel's *channel*, on which the three lines and the request travel; the others
are its standard streams. A server that gave up has closed the channel, so its fork ends before it has done anything.
For the same reason a kernel ends when its server does. Nothing listens: nobody else can ask a zygote for a process.

What a fork cannot give, a cold start does, and the reason is counted (:mod:`.conditions`): another interpreter or
program, variables that only count when a process starts, packages that have changed since the imports. A kernel that
does not come up warm is started cold before that is a failure. Forked or not, it has its ports kept (:mod:`.ports`).

Of a cold kernel it differs in this: its parent is the zygote, and all kernels of one zygote have one hash seed. Where
the server was born with the zygote, kernels find imported what servers import, with what that adds to warnings' filters
and the import system (but for what :mod:`.inborn` forgets), and on a node without a locale `sys.flags.utf8_mode` is the
server's.
"""
