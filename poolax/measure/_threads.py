"""How many threads small matrices take."""

from threadpoolctl import threadpool_limits

# LAPACK's threads wait for each other without sleeping: a matrix of 384 by 384, as most are here, takes
# two of them on two cores up to 60 times the time that one takes.
one_thread = threadpool_limits.wrap(limits=1, user_api="blas")
