/* Mistakes, most of which somebody has made. A mutant is the protocol with one of them (spin -DCHECK_THEN_ACT=1). All are
 * off. */

/* --- of the library ---------------------------------------------------------------------------------------------------- */

#ifndef CHECK_THEN_ACT           /* it looks whether the key is there, and inserts it in the end, with no unique index */
#define CHECK_THEN_ACT 0
#endif
#ifndef KEY_COMMITTED_FIRST      /* the claim has a transaction of its own, before that of the function */
#define KEY_COMMITTED_FIRST 0
#endif
#ifndef ROWCOUNT_DECIDES         /* ON DUPLICATE KEY UPDATE counts one row, whoever was first */
#define ROWCOUNT_DECIDES 0
#endif
#ifndef PLAIN_SELECT             /* who has lost the claim reads the winner's row in the transaction that it has */
#define PLAIN_SELECT 0
#endif
#ifndef DIRTY_LOOK               /* at READ UNCOMMITTED the look aside does not wait for who is changing the row */
#define DIRTY_LOOK 0
#endif
#ifndef STORE_WITHOUT_OWNER      /* the statement that stores names the key, and not whose row it must be */
#define STORE_WITHOUT_OWNER 0
#endif
#ifndef STORE_DOES_NOT_FAIL      /* nor does it fail where it finds no row, and COMMIT stands behind it */
#define STORE_DOES_NOT_FAIL 0
#endif
#ifndef ONE_OWNER                /* all attempts of a call have one owner */
#define ONE_OWNER 0
#endif
#ifndef NO_RETRY                 /* what would go away in another attempt is the caller's to see */
#define NO_RETRY 0
#endif
#ifndef TRANSIENT_REMEMBERED     /* an error of the database is kept as the function's answer */
#define TRANSIENT_REMEMBERED 0
#endif
#ifndef ACK_BEFORE_COMMIT        /* the caller hears of the success first */
#define ACK_BEFORE_COMMIT 0
#endif
#ifndef PURGE_BY_CLIENTS_CLOCK   /* which may say anything */
#define PURGE_BY_CLIENTS_CLOCK 0
#endif
#ifndef PURGE_WITHOUT_GRACE      /* as soon as a row has expired, whoever does not know yet whether it is there */
#define PURGE_WITHOUT_GRACE 0
#endif

/* --- of calls inside calls --------------------------------------------------------------------------------------------- */

#ifndef RETRY_INSIDE             /* a call in somebody else's transaction begins again by itself */
#define RETRY_INSIDE 0
#endif
#ifndef NO_SAVEPOINT             /* and has nothing to go back to when it fails */
#define NO_SAVEPOINT 0
#endif
#ifndef NO_TURNS                 /* several are inside at once */
#define NO_TURNS 0
#endif
#ifndef DOOR_LEFT_OPEN           /* who comes while the call around it commits is let in */
#define DOOR_LEFT_OPEN 0
#endif
#ifndef NOT_WAITED_FOR           /* the call around them commits, whoever is inside */
#define NOT_WAITED_FOR 0
#endif

/* --- of the database: what the protocol rests on ----------------------------------------------------------------------- */

#ifndef FORGETS_A_COMMIT         /* durability is turned off, and it crashes */
#define FORGETS_A_COMMIT 0
#endif
#ifndef TWO_PRIMARIES            /* two nodes commit without asking each other */
#define TWO_PRIMARIES 0
#endif
#ifndef ASYNCHRONOUS             /* a node that crashes takes with it what the other has not done yet */
#define ASYNCHRONOUS 0
#endif
