"""The engine: one call, from the key to COMMIT.

====================  ================================================================================================
`call`                what is asked: a request, what kind of thing it claims, how its result travels
`course`              one call under way: how often it began, how long it may still wait
`run`                 attempts until there is an answer; **the only loop**, sync and async. Everything else calls it
`stay`                a run whose business is the body of a ``with`` statement
`aside`               the look before a transaction, for calls that expect to find an answer
`attempt`             one transaction of one call: settle, let the business run, store, commit; or give back
`returned`            what its business may return in place of a value
`settle`              its beginning: claim, or find out what stands in the way, and answer from it
`late`                the claim that was to come with the function's first statement, where there was none
`kinds`               what is claimed: a key, a token, a token in a store. *Takes, decides, keeps, gives back*
`many`                one more of them: many keys at once, for which nothing runs
`unread`              what COMMIT must find of them, and whether their loop was given all
`transaction`         where, and what a claim needs of it:
`own`, `joined`       a transaction of its own, which COMMIT may leave in one packet; a savepoint in the caller's
`second`              the connection that no COMMIT is of, and that is refused
`quiet`               what the session's listeners hear of COMMIT: one, at the end
`nesting`, `door`     which calls run around this one; one at a time, and none once it is ending
`verdict`, `retry`    what an error means to this call; how often and how far apart attempts follow each other
`explained`           what of that a caller is told
`itself`              who would wait for a call around it
`steps`               the named points on the way, for whoever listens
====================  ================================================================================================

The logic is sync, on a sync Session. The async colour differs in `run.AsyncRun` and `stay.AsyncStaying` alone.
"""
