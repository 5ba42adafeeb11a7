# Figures of tests/pooling_reference.json, from mice 3.15 and mitml 0.4:
#
#     Rscript tests/pooling_reference.R > tests/pooling_reference.json
#
# The estimates and covariance matrices are sines, which tests/test_pooling.py computes too.

suppressMessages({library(mice); library(mitml); library(jsonlite)})

estimates <- function(m, scale) outer(1:m, 1:3, function(i, j) j - 1.5 + scale * sin(7 * i^2 + j))
covariance <- function(i) {
  own <- diag(1 + 0.5 * sin(i * (1:3)))
  own + 0.3 * (1 - diag(3))
}

scalars <- function(q, u, m, dfcom) sapply(1:3, function(j) {
  found <- pool.scalar(q[, j], u[, j], n = dfcom, k = 0)
  c(t = found$t, riv = found$r, df = found$df, fmi = found$fmi)
})

own <- function(q, u, dfcom) {
  given <- if (is.finite(dfcom)) dfcom
  t(testEstimates(qhat = t(q), uhat = u, df.com = given)$estimates[, c(2, 3, 4, 5, 6, 7)])
}

# What testConstraints computes once it has differentiated the constraints, numerically: this is exact.
tests <- function(q, u, dfcom) {
  given <- if (is.finite(dfcom)) dfcom
  three <- list(rows = diag(3), values = c(0, 0, 0))
  two <- list(rows = rbind(c(1, -1, 0), c(0, 0, 1)), values = c(0, 1))
  one <- list(rows = rbind(c(0, 0, 1)), values = 0)
  numbers <- function(found)
    c(found$F, found$k, found$v, pf(found$F, found$k, found$v, lower.tail = FALSE), found$r)
  transformed <- function(h) {
    k <- nrow(h$rows)
    list(q = h$rows %*% t(q) - h$values,
         u = array(apply(u, 3, function(each) h$rows %*% each %*% t(h$rows)), c(k, k, nrow(q))))
  }
  D1 <- function(h) numbers(mitml:::.D1(transformed(h)$q, transformed(h)$u, given))
  D2 <- function(h) {
    own <- transformed(h)
    d <- sapply(1:nrow(q), function(i) own$q[, i] %*% solve(own$u[, , i]) %*% own$q[, i])
    numbers(mitml:::.D2(d, nrow(h$rows)))
  }
  list(D1 = sapply(list(three, two, one), D1), D2 = sapply(list(three, two, one), D2))
}

grid <- expand.grid(m = c(2, 5, 20, 100), dfcom = c(10, 97, Inf), scale = c(0, 1e-3, 0.3, 30))
cells <- lapply(1:nrow(grid), function(row) {
  m <- grid$m[row]; dfcom <- grid$dfcom[row]; scale <- grid$scale[row]
  q <- estimates(m, scale)
  u <- sapply(1:m, covariance, simplify = "array")
  variances <- t(apply(u, 3, diag))
  list(m = m, dfcom = if (is.finite(dfcom)) dfcom, scale = scale,
       mice = scalars(q, variances, m, dfcom), mitml = own(q, u, dfcom), tests = tests(q, u, dfcom))
})

# Regressions of imputed data sets that are sines too, pooled by mice::pool itself.
frames <- lapply(1:5, function(i) {
  n <- 1:30
  x1 <- sin(n); x2 <- cos(n^2) + 0.3 * sin(i * n)
  data.frame(x1, x2, y = x1 + 0.5 * x2 + cos(3 * n^2))
})
fits <- lapply(frames, function(frame) lm(y ~ x1 + x2, frame))
null <- lapply(frames, function(frame) lm(y ~ 1, frame))
pooled <- pool(as.mira(fits))
shown <- summary(pooled, conf.int = TRUE)
columns <- c("estimate", "ubar", "b", "t", "df", "riv", "lambda", "fmi")
regression <- list(
  pool = t(as.matrix(pooled$pooled[, columns])),
  summary = t(as.matrix(shown[, c("std.error", "statistic", "p.value", "2.5 %", "97.5 %")])),
  D1 = testModels(fits, null, method = "D1", df.com = 27)$test[1, ],
  D2 = testModels(fits, null, method = "D2")$test[1, ])
cat(toJSON(list(cells = cells, regression = regression), digits = I(13), auto_unbox = TRUE,
           null = "null", na = "null"), "\n")
